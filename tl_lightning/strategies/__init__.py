"""Fine-tuning strategies."""

from tl_lightning.strategies.adalora import AdaLoRA
from tl_lightning.strategies.adapters import Adapter
from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.compact import IA3, OFT, VeRA
from tl_lightning.strategies.lora import DoRA, LoRA, PiSSA, RSLoRA
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.regularizer import Regularizer

__all__ = [
    "IA3",
    "OFT",
    "AdaLoRA",
    "Adapter",
    "DoRA",
    "FineTuning",
    "LinearProbe",
    "LoRA",
    "Phase",
    "PiSSA",
    "RSLoRA",
    "Regularizer",
    "VeRA",
]
