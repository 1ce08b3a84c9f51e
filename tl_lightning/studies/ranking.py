"""Ranks of groups over several test sets or seeds: Friedman's test and Nemenyi's critical difference.

After Demšar, 2006, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import chdtrc, ndtr

from tl_lightning.studies.levels import ALPHA
from tl_lightning.studies.outcomes import Array
from tl_lightning.studies.study import Study
from tl_lightning.values import LOWER_IS_BETTER

FEWEST_GROUPS = FEWEST_BLOCKS = 3


@dataclass(frozen=True)
class Ranking:
    """Mean ranks by group (1 is best), Friedman's p, the critical difference, and cliques that are not told apart."""

    ranks: dict[str, float]
    p: float
    critical: float
    blocks: int
    over: str
    cliques: list[tuple[str, ...]]


def ranking(study: Study, metric: str) -> Ranking | str:
    """The ranking of the groups that stand in every block, or why there is none, in words."""
    labels, table, over = _blocks(study, metric)
    if len(labels) < FEWEST_GROUPS or len(table) < FEWEST_BLOCKS:
        return (
            f"not drawn: it needs {FEWEST_GROUPS} groups in each of {FEWEST_BLOCKS} {over}; here are {len(labels)}"
            f" groups in each of {len(table)}"
        )
    return ranked(labels, table if metric in LOWER_IS_BETTER else -table, over)


def _blocks(study: Study, metric: str) -> tuple[list[str], Array, str]:
    """Groups, their values (blocks, groups), and what the blocks are: test sets where there are several, else seeds."""
    if len(study.sets) > 1:
        labels = [label for label in study.sets[0].groups if all(label in one.groups for one in study.sets)]
        rows = [[one.arms[metric][label].mean for label in labels] for one in study.sets]
        return labels, np.array(rows), "test sets"
    one = study.sets[0]
    labels = list(one.arms[metric])
    first, *others = (one.groups[label].runs for label in labels)
    common = [repetition for repetition in first if all(repetition in runs for runs in others)]
    columns = [
        one.measured.arm(metric, [one.groups[label].runs[repetition] for repetition in common]).values
        for label in labels
    ]
    return labels, np.stack(columns, axis=1), "seeds that all groups share"


def ranked(labels: list[str], costs: Array, over: str) -> Ranking:
    """From costs (blocks, groups), the smaller the better."""
    blocks, groups = costs.shape
    table = ranks(costs)
    mean = table.mean(axis=0)
    spread = ((table - (groups + 1) / 2) ** 2).sum() / (blocks * (groups - 1))  # smaller where there are ties
    p = float(chdtrc(groups - 1, blocks * ((mean - (groups + 1) / 2) ** 2).sum() / spread)) if spread > 0 else 1.0
    critical = range_quantile(groups) / np.sqrt(2) * np.sqrt(groups * (groups + 1) / (6 * blocks))
    by_rank = dict(sorted(zip(labels, mean.tolist(), strict=True), key=lambda item: item[1]))
    return Ranking(by_rank, p, float(critical), blocks, over, cliques(by_rank, float(critical)))


def ranks(table: Array) -> Array:
    """Ranks along rows from 1, ties sharing theirs."""
    below = (table[:, :, None] > table[:, None, :]).sum(axis=2)
    same = (table[:, :, None] == table[:, None, :]).sum(axis=2)
    return np.asarray(below + (same + 1) / 2)


def range_quantile(groups: int) -> float:
    """The 95% quantile of the range of so many standard normal numbers.

    ``scipy.stats.studentized_range`` has it too, but importing scipy.stats takes as long as all the rest of a study.
    """
    z = np.linspace(-9, 9, 4001)
    density = groups * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi) * (z[1] - z[0])
    low, high = 0.0, 20.0
    for _ in range(50):
        middle = (low + high) / 2
        share = (density * (ndtr(z) - ndtr(z - middle)) ** (groups - 1)).sum()
        low, high = (middle, high) if share < 1 - ALPHA else (low, middle)
    return (low + high) / 2


def cliques(ranks: dict[str, float], critical: float) -> list[tuple[str, ...]]:
    """The largest sets of neighbours, at least two, whose ranks lie within the critical difference."""
    labels, found, reached = list(ranks), [], -1
    for start, label in enumerate(labels):
        inside = [other for other in labels[start:] if ranks[other] - ranks[label] <= critical]
        end = start + len(inside) - 1
        if end > max(reached, start):
            found.append(tuple(inside))
            reached = end
    return found
