"""Transfer learning with PyTorch Lightning: data, backbone, head, objective, and a strategy that says what may move."""

__version__ = "0.1.0"
