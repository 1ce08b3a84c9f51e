"""Parts of a user's own, whose words are theirs: the names that our parts use mean other things in them."""

from typing import Annotated, NamedTuple

from tl_lightning.ranges import Range
from tl_lightning.strategies import FineTuning


class Ge(NamedTuple):
    """As annotated-types has it."""

    ge: float


class Own(FineTuning):
    """Named as parts of ours name theirs; only ``rounds`` and ``every`` have a range."""

    def __init__(
        self,
        start: int = 2,
        decay: float = 5.0,
        alpha: float = -1.0,
        p: list[float] | None = None,
        k: int = 1,
        seed: int = -1,
        rounds: Annotated[int, Range(ge=1, le=9)] = 3,
        every: Annotated[float, Ge(2)] | None = None,
    ) -> None:
        super().__init__()
