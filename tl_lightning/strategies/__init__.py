"""Fine-tuning strategies."""

from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.regularizer import Regularizer

__all__ = ["FineTuning", "LinearProbe", "Phase", "Regularizer"]
