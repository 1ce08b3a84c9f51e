"""Fine-tuning strategies."""

from tl_lightning.strategies.adalora import AdaLoRA
from tl_lightning.strategies.adapters import Adapter, LayerAdapter
from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.compact import IA3, OFT, VeRA
from tl_lightning.strategies.lora import DoRA, LoRA, PiSSA, RSLoRA
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.prompts import PrefixTuning, PromptTuning
from tl_lightning.strategies.qlora import QLoRA
from tl_lightning.strategies.regularizer import Regularizer

__all__ = [
    "IA3",
    "OFT",
    "AdaLoRA",
    "Adapter",
    "DoRA",
    "FineTuning",
    "LayerAdapter",
    "LinearProbe",
    "LoRA",
    "Phase",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "QLoRA",
    "RSLoRA",
    "Regularizer",
    "VeRA",
]
