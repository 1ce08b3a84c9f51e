"""Linear probing."""

from tl_lightning.parts import part
from tl_lightning.strategies.base import FineTuning
from tl_lightning.strategies.regularizer import Regularizer


@part("strategy")
class LinearProbe(FineTuning):
    """Train the head alone on the frozen backbone's features (Alain and Bengio, 2017, arXiv:1610.01644).

    Where it reads features from the cache, a checkpoint holds the head alone, as it does of adapters: the weights of
    the backbone are those it was pretrained with.
    """

    probes = True

    def __init__(self, regularizer: Regularizer | None = None) -> None:
        super().__init__(regularizer=regularizer)

    def frozen_groups(self, epoch: int, total: int) -> int:
        """All of them, always."""
        return total

    def keeps(self, name: str) -> bool:
        """The head always."""
        return not (self.reads_features and self.knows(name))

    def knows(self, name: str) -> bool:
        """The whole backbone."""
        return name.startswith("backbone.")
