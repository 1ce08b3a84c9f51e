"""Fine-tuning strategies."""

from tl_lightning.strategies.adapters import Adapter
from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.lora import DoRA, LoRA, PiSSA, RSLoRA
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.regularizer import Regularizer

__all__ = ["Adapter", "DoRA", "FineTuning", "LinearProbe", "LoRA", "Phase", "PiSSA", "RSLoRA", "Regularizer"]
