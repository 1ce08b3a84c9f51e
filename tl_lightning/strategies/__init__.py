"""Fine-tuning strategies, and the regularizers that any of them takes."""

from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.feature_distill import FeatureDistill
from tl_lightning.strategies.l2_sp import L2SP
from tl_lightning.strategies.mixout import Mixout
from tl_lightning.strategies.probe import LinearProbe
from tl_lightning.strategies.r_drop import RDrop
from tl_lightning.strategies.regularizer import Regularizer
from tl_lightning.strategies.sam import SAM

__all__ = ["L2SP", "SAM", "FeatureDistill", "FineTuning", "LinearProbe", "Mixout", "Phase", "RDrop", "Regularizer"]
