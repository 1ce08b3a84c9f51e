"""Fine-tuning strategies."""

from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.regularizer import Regularizer
from tl_lightning.strategies.selection import BitFit, NormOnly
from tl_lightning.strategies.unfreeze import LPFT, FirstLayers, Gradual, HeadThenTop, UnfreezeAt

__all__ = [
    "LPFT",
    "BitFit",
    "FineTuning",
    "FirstLayers",
    "Gradual",
    "HeadThenTop",
    "LinearProbe",
    "NormOnly",
    "Phase",
    "Regularizer",
    "UnfreezeAt",
]
