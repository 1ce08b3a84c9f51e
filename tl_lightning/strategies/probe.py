"""Linear probing."""

from tl_lightning.strategies.base import FineTuning
from tl_lightning.strategies.regularizer import Regularizer


class LinearProbe(FineTuning):
    """Train the head alone on the frozen backbone's features (Alain and Bengio, 2017, arXiv:1610.01644)."""

    def __init__(self, regularizer: Regularizer | None = None) -> None:
        super().__init__(regularizer=regularizer)

    def frozen_groups(self, epoch: int, total: int) -> int:
        """All of them, always."""
        return total
