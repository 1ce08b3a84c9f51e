"""Backbones of a few small layers, for data of images."""

import torch
from torch import Tensor, nn

from tl_lightning.backbones.base import Backbone
from tl_lightning.backbones.weights import load_weights
from tl_lightning.images import ImageSpec


class TinyConv(Backbone):
    """From scratch, always."""

    def __init__(self) -> None:
        super().__init__()
        self.preprocessor = ImageSpec(size=(16, 16), resize=16)
        self.out_features = 32
        self.identity = {"name": "tiny", "revision": None}
        self.layers = nn.ModuleList([nn.Conv2d(3, 16, 4, stride=2), nn.Conv2d(16, 32, 3, stride=2)])

    def forward(self, **inputs: Tensor) -> Tensor:
        features = inputs["pixels"].float() / 128 - 1
        for layer in self.layers:
            features = layer(features).relu()
        return torch.amax(features, dim=(2, 3))


class Mixed(nn.Module):
    """BatchNorm between linear layers, called as those of a transformer are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.key, self.norm, self.output = nn.Linear(width, width), nn.BatchNorm1d(width), nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        moved: Tensor = self.output(self.norm(self.key(features)).relu())
        return features + moved


class TinyDense(Backbone):
    """Linear layers with BatchNorm, over images of 8 pixels."""

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.preprocessor = ImageSpec(size=(8, 8), resize=8)
        self.out_features = 16
        self.identity = {"name": "dense", "revision": None, "weights": weights}
        self.stem = nn.Linear(3 * 64, 16)
        self.layers = nn.ModuleList([Mixed(16), Mixed(16)])
        if weights is not None:
            load_weights(self, weights, ("backbone.",))

    def forward(self, **inputs: Tensor) -> Tensor:
        features: Tensor = self.stem((inputs["pixels"].float() / 128 - 1).flatten(1))
        for layer in self.layers:
            features = layer(features)
        return features
