"""Fine-tuning strategies."""

from tl_lightning.strategies.base import FineTuning
from tl_lightning.strategies.probe import LinearProbe

__all__ = ["FineTuning", "LinearProbe"]
