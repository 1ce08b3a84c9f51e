"""What is known of a metric before anything is measured: between which numbers it lies, and how it is counted."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Scale:
    """The numbers that a metric can be.

    Args:
        low: the least of them.
        high: the greatest.
        counted: it weighs examples that are right or wrong, so that few of them say little of it.
        stepped: one more right example of N moves it by about the N-th part of the way from ``low`` to ``high``.
        exact: it is the share of right examples itself.
        biased: on few examples it comes out too large.
    """

    low: float = -math.inf
    high: float = math.inf
    counted: bool = False
    stepped: bool = False
    exact: bool = False
    biased: bool = False

    @property
    def width(self) -> float:
        """From the least to the greatest; a difference of two such metrics is at most as large."""
        return self.high - self.low

    def step(self, examples: int) -> float:
        """What one example of so many moves; 0 where a metric moves smoothly."""
        return self.width / examples if self.stepped and examples else 0.0

    def within(self, low: float, high: float) -> Bounds:
        """The part of an interval that the metric can be.

        What is cut off cannot be the true value, so the interval holds it as often as before.
        """
        return min(max(low, self.low), self.high), max(min(high, self.high), self.low)


UNKNOWN = Scale()
RIGHT = Scale(0, 1, counted=True, stepped=True)
CORRELATION = Scale(-1, 1)
ERROR = Scale(0)
SCALES = {
    "accuracy": Scale(0, 1, counted=True, stepped=True, exact=True),
    "f1": RIGHT,
    "precision": RIGHT,
    "recall": RIGHT,
    "mcc": Scale(-1, 1, counted=True, stepped=True),
    "auroc": Scale(0, 1, counted=True),
    "ece": Scale(0, 1, biased=True),
    "pearson": CORRELATION,
    "spearman": CORRELATION,
    "mse": ERROR,
    "mae": ERROR,
    "loss": ERROR,
}
ROUNDING = 1e-5  # metrics are computed in float32


def scale_of(metric: str, values: Iterable[float] = ()) -> Scale:
    """The scale of a metric by its short name.

    Args:
        metric: its name; nothing is known of one that this package does not have.
        values: that were measured.  Where one is off the scale, an objective of the user's own means something else by
            the name (a loss below 0, an accuracy in percent), and nothing is known.
    """
    found = SCALES.get(metric, UNKNOWN)
    fits = all(found.low - ROUNDING <= value <= found.high + ROUNDING for value in values if not math.isnan(value))
    return found if fits else UNKNOWN
