"""Which layer groups hold still, and until when."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Count, Natural, PositiveUpTo1, Range, Rate
from tl_lightning.strategies.base import FineTuning, Phase
from tl_lightning.strategies.regularizer import Regularizer

Groups = int | Literal["all"]


@part("strategy")
class FirstLayers(FineTuning):
    """Freeze the first ``frozen`` layer groups for good: 1 is the input side alone, embeddings or stem.

    How many may be frozen is measured in Lee et al. (2019, arXiv:1911.03090).
    """

    def __init__(
        self, frozen: Natural = 1, layer_decay: PositiveUpTo1 = 1.0, regularizer: Regularizer | None = None
    ) -> None:
        super().__init__(layer_decay, regularizer)
        self.frozen = frozen

    def frozen_groups(self, epoch: int, total: int) -> int:
        """The same in every epoch."""
        return _within("frozen", self.frozen, total)


@part("strategy")
class HeadThenTop(FineTuning):
    """Train the head alone for ``head_epochs`` epochs, then the top ``top`` layer groups as well."""

    sooner = "strategy.head_epochs"

    def __init__(
        self,
        head_epochs: Count = 1,
        top: Count = 1,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(layer_decay, regularizer)
        self.head_epochs, self.top = head_epochs, top

    def frozen_groups(self, epoch: int, total: int) -> int:
        """All, then all but the top."""
        top = _within("top", self.top, total)
        return total if epoch < self.head_epochs else total - top


@part("strategy")
class Gradual(FineTuning):
    """Gradual unfreezing: the head alone, then one more layer group every ``epochs_per_group`` epochs, the top first.

    0.25 opens four groups with each epoch.  With ``layer_decay=0.3846`` and ``schedule=slanted_triangular`` it is
    ULMFiT (Howard and Ruder, 2018, arXiv:1801.06146).
    """

    sooner = "strategy.epochs_per_group"

    def __init__(
        self,
        epochs_per_group: Annotated[float, Range(gt=0, note="0.25 opens four groups at once")] = 1.0,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(layer_decay, regularizer)
        self.epochs_per_group = epochs_per_group

    def frozen_groups(self, epoch: int, total: int) -> int:
        """Fewer with time."""
        opened = int(round(epoch / self.epochs_per_group, 6))  # 3 / 0.2 falls short of 15
        return max(0, total - opened)


@part("strategy")
class LPFT(FineTuning):
    """Linear probing, then full fine-tuning from the probe's head (Kumar et al., 2022, arXiv:2202.10054).

    Each part has a learning-rate schedule of its own and fresh optimizer moments.

    Args:
        probe_epochs: for the head alone.
        probe_lr: the probe's learning rate; the fine-tuning has the optimizer's.
        layer_decay: of the fine-tuning.
        regularizer: as for every strategy.
    """

    sooner = "strategy.probe_epochs"

    def __init__(
        self,
        probe_epochs: Count = 1,
        probe_lr: Rate = 1e-3,
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(layer_decay, regularizer)
        self.probe_epochs, self.probe_lr = probe_epochs, probe_lr

    def frozen_groups(self, epoch: int, total: int) -> int:
        """All, then none."""
        return total if epoch < self.probe_epochs else 0

    def phases(self, epochs: int) -> list[Phase]:
        """The probe and the fine-tuning."""
        return [Phase(0, self.probe_lr), Phase(self.probe_epochs)]


@part("strategy")
class UnfreezeAt(FineTuning):
    """A schedule by hand: ``[[2, 4], [5, all]]`` moves the top 4 layer groups from epoch 2 on, and all from epoch 5 on.

    Epochs are counted from 0; before the first one named, the head moves alone.

    Args:
        unfreeze_at: pairs of an epoch and how many groups, counted from the top, move from then on; or ``all``.
        layer_decay: as for every strategy.
        regularizer: as for every strategy.
    """

    sooner = "the epochs of strategy.unfreeze_at"

    def __init__(
        self,
        unfreeze_at: list[list[Groups]],
        layer_decay: PositiveUpTo1 = 1.0,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(layer_decay, regularizer)
        self.steps = _steps(unfreeze_at)

    def frozen_groups(self, epoch: int, total: int) -> int:
        """As the last step up to ``epoch`` says."""
        top: Groups = 0
        for start, groups in self.steps:
            if start <= epoch:
                top = groups
        return 0 if top == "all" else total - _within("unfreeze_at", top, total)


def _steps(pairs: Sequence[Sequence[Groups]]) -> list[tuple[int, Groups]]:
    whole = all(len(pair) == 2 and isinstance(pair[0], int) and pair[0] >= 0 for pair in pairs)
    steps = [(int(pair[0]), pair[1]) for pair in pairs] if whole else []
    if not steps or any(a >= b for (a, _), (b, _) in pairwise(steps)):
        raise UserError(
            f"strategy.unfreeze_at={list(map(list, pairs))}: pairs of an epoch (from 0, rising) and the layer groups"
            " that move from then on, counted from the top, are expected: strategy.unfreeze_at=[[2,4],[5,all]]"
        )
    return steps


def _within(name: str, groups: int, total: int) -> int:
    if not 0 <= groups <= total:
        raise UserError(f"strategy.{name}={groups}: the backbone has {total} layer groups, so 0 to {total} is expected")
    return groups
