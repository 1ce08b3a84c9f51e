"""The bootstrap over test examples, the same draws for all runs."""

from collections.abc import Iterator, Sequence

import numpy as np

from tl_lightning.studies.outcomes import Array, Outcomes
from tl_lightning.studies.scoring import SCORERS, Weighted

RESAMPLES = 1000
FEWEST = 200
MOST_WORK = 100_000_000  # drawn examples over all runs and resamples
AT_ONCE = 1_000_000  # drawn examples held in memory


def how_many(examples: int, runs: int, most: int = RESAMPLES) -> int:
    """The number of resamples: fewer where examples and runs are many; large test sets have narrow intervals."""
    return min(most, max(FEWEST, MOST_WORK // max(examples * runs, 1)))


def resampled(names: Sequence[str], runs: Sequence[Outcomes], count: int) -> dict[str, Array]:
    """Metrics of each of R runs in each of ``count`` bootstrap resamples of the test examples: (R, count) by name.

    Each resample draws the same examples for all runs, so differences between runs are paired on examples.
    """
    found = {name: np.empty((len(runs), count)) for name in names}
    start = 0
    for weights in draws(len(runs[0]), count):
        part = slice(start, start + len(weights))
        for at, run in enumerate(runs):
            given = Weighted(run, weights)
            for name in names:
                found[name][at, part] = SCORERS[run.kind][name](given)
        start = part.stop
    return found


def draws(examples: int, count: int, seed: int = 0) -> Iterator[Array]:
    """How often each example is drawn in each resample: ``count`` rows of (N,) in parts of bounded size."""
    generator = np.random.default_rng(seed)
    step = max(1, AT_ONCE // examples)
    for start in range(0, count, step):
        rows = min(step, count - start)
        drawn = generator.integers(examples, size=(rows, examples)) + np.arange(rows)[:, None] * examples
        yield np.bincount(drawn.ravel(), minlength=rows * examples).reshape(rows, examples).astype(float)
