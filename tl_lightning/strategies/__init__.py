"""Fine-tuning strategies, and the regularizers that any of them takes."""

from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.feature_distill import FeatureDistill
from tl_lightning.strategies.l2_sp import L2SP
from tl_lightning.strategies.mixout import Mixout
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.r_drop import RDrop
from tl_lightning.strategies.regularizer import Regularizer
from tl_lightning.strategies.sam import SAM
from tl_lightning.strategies.selection import BitFit, NormOnly
from tl_lightning.strategies.unfreeze import LPFT, FirstLayers, Gradual, HeadThenTop, UnfreezeAt

__all__ = [
    "L2SP",
    "LPFT",
    "SAM",
    "BitFit",
    "FeatureDistill",
    "FineTuning",
    "FirstLayers",
    "Gradual",
    "HeadThenTop",
    "LinearProbe",
    "Mixout",
    "NormOnly",
    "Phase",
    "RDrop",
    "Regularizer",
    "UnfreezeAt",
]
