"""Fine-tuning strategies, and the regularizers that any of them takes."""

from tl_lightning.strategies.adalora import AdaLoRA
from tl_lightning.strategies.adapters import Adapter, LayerAdapter
from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.feature_distill import FeatureDistill
from tl_lightning.strategies.l2_sp import L2SP
from tl_lightning.strategies.lora import DoRA, LoRA, PiSSA, RSLoRA
from tl_lightning.strategies.mixout import Mixout
from tl_lightning.strategies.oft import OFT
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.prompts import PrefixTuning, PromptTuning
from tl_lightning.strategies.qlora import QLoRA
from tl_lightning.strategies.r_drop import RDrop
from tl_lightning.strategies.regularizer import Regularizer
from tl_lightning.strategies.sam import SAM
from tl_lightning.strategies.scales import IA3, VeRA
from tl_lightning.strategies.selection import BitFit, NormOnly
from tl_lightning.strategies.unfreeze import LPFT, FirstLayers, Gradual, HeadThenTop, UnfreezeAt

__all__ = [
    "IA3",
    "L2SP",
    "LPFT",
    "OFT",
    "SAM",
    "AdaLoRA",
    "Adapter",
    "BitFit",
    "DoRA",
    "FeatureDistill",
    "FineTuning",
    "FirstLayers",
    "Gradual",
    "HeadThenTop",
    "LayerAdapter",
    "LinearProbe",
    "LoRA",
    "Mixout",
    "NormOnly",
    "Phase",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "QLoRA",
    "RDrop",
    "RSLoRA",
    "Regularizer",
    "UnfreezeAt",
    "VeRA",
]
