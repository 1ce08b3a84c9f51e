"""A metric against a number that was varied, against its cost, and the critical-difference diagram."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_lightning.studies.drawing import legend, look, new_figure
from tl_lightning.studies.folding import folded
from tl_lightning.studies.outcomes import Array
from tl_lightning.studies.ranking import Ranking
from tl_lightning.studies.study import TestSet
from tl_lightning.values import LOWER_IS_BETTER

COSTS = {"seconds of fit": ("durations", "fit"), "trained parameters": ("parameters", "trained")}
MOST_NAMED = 7  # groups told apart by colour
MOST_TICKS = 10
SIDE = 28  # letters of a label on either side of the ranks
PITCH, LINE_PITCH = 0.34, 0.26  # from label to label, and more for each further line


def against(one: TestSet, metric: str, key: str) -> Figure:
    """The mean over seeds with its 95% interval against the number at ``key``; a line for each of the other keys."""
    lines: dict[str, list[tuple[float, str]]] = {}
    for label in one.arms[metric]:
        values = one.groups[label].values
        name = ", ".join(value for other, value in values.items() if other != key)
        lines.setdefault(name, []).append((float(values[key]), label))
    figure, (axes,) = new_figure(3.1)
    xs = [x for line in lines.values() for x, _ in line]
    _scale(axes, xs)
    for at, (name, line) in enumerate(lines.items()):
        _line(axes, one, metric, sorted(line), name, at)
    axes.set_xlabel(key)
    axes.set_ylabel(f"test {metric}")
    if len(lines) > 1:
        legend(figure, axes, len(lines))
    return figure


def _scale(axes: Axes, xs: Sequence[float]) -> None:
    """A logarithmic axis for what spans a decade, its ticks at the values."""
    if min(xs) <= 0 or max(xs) / min(xs) < 10:
        return
    axes.set_xscale("log")
    ticks = sorted(set(xs))
    if len(ticks) <= 10:
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        axes.minorticks_off()


def _line(axes: Axes, one: TestSet, metric: str, line: Sequence[tuple[float, str]], name: str, at: int) -> None:
    arms = [one.arms[metric][label] for _, label in line]
    means = np.array([arm.mean for arm in arms])
    ends = [one.over_seeds(metric, label) for _, label in line]
    bounds = np.array([found or (arm.mean, arm.mean) for found, arm in zip(ends, arms, strict=True)])
    below, above = np.maximum([means - bounds[:, 0], bounds[:, 1] - means], 0)  # means of float32 may be 1.0000001
    xs = [x for x, _ in line]
    axes.errorbar(xs, means, yerr=[below, above], lw=1.6, ms=5, capsize=2, elinewidth=1, label=name, **look(at))
    for x, arm in zip(xs, arms, strict=True):
        axes.plot([x] * len(arm.values), arm.values, ".", ms=3, alpha=0.4, color=look(at)["color"])


def cost(one: TestSet, metric: str) -> Figure | None:
    """Quality against seconds and against trained parameters, with the groups that no cheaper one equals."""
    known = {name: points for name, path in COSTS.items() if (points := _costs(one, metric, path))}
    if not known:
        return None
    figure, all_axes = new_figure(3.2, columns=len(known), width=6.6 if len(known) > 1 else 4.4)
    lower = metric in LOWER_IS_BETTER
    fronts = {name: pareto(np.array(list(points.values())), lower) for name, points in known.items()}
    looks = _looks(list(one.arms[metric]), list(fronts.values()))
    for axes, (name, points) in zip(all_axes, known.items(), strict=True):
        _scatter(axes, points, fronts[name], looks)
        costs = [x for x, _ in points.values()]
        axes.set_xscale("log" if max(costs) > 3 * min(costs) > 0 else "linear")
        axes.set_xlabel(name)
        axes.set_ylabel(f"test {metric}")
    legend(figure, all_axes[0], len(looks))
    return figure


def _looks(labels: Sequence[str], fronts: Sequence[Sequence[int]]) -> dict[str, dict[str, Any]]:
    """How groups are told apart: all where they are few, else those of a front; the others are grey and unnamed."""
    at_front = sorted({at for front in fronts for at in front})
    named = labels if len(labels) <= MOST_NAMED else [labels[at] for at in at_front]
    return {label: look(at) for at, label in enumerate(named)}


def _scatter(
    axes: Axes, points: dict[str, tuple[float, float]], front: Sequence[int], looks: dict[str, dict[str, Any]]
) -> None:
    """The groups, those of the front large."""
    xs, ys = np.array(list(points.values()))[front].T
    axes.step(xs, ys, where="post", color="#bbbbbb", lw=1.2, zorder=1)
    for at, (label, (x, y)) in enumerate(points.items()):
        style = looks.get(label, {"color": "#bbbbbb", "marker": "o"})
        name = label if label in looks else None
        axes.plot(x, y, ls="", ms=9 if at in front else 6, mec="white", label=name, **style)


def _costs(one: TestSet, metric: str, path: tuple[str, str]) -> dict[str, tuple[float, float]]:
    """Cost and metric of each group; empty where a run does not say, or all cost the same."""
    found = {}
    for label, arm in one.arms[metric].items():
        costs = [run.fact(*path) for run in one.groups[label].runs.values()]
        if None in costs:
            return {}
        found[label] = (float(np.mean(costs)), arm.mean)
    return found if len({x for x, _ in found.values()}) > 1 else {}


def pareto(points: Array, lower_is_better: bool) -> list[int]:
    """The places of (cost, quality) pairs (K, 2) whose quality none has at less cost, cheapest first."""
    quality = points[:, 1] * (-1 if lower_is_better else 1)
    front: list[int] = []
    for at in np.lexsort((-quality, points[:, 0])):
        if not front or quality[at] > quality[front[-1]]:
            front.append(int(at))
    return front


def critical_difference(found: Ranking) -> Figure:
    """Mean ranks on a line, the best to the left; bars join what is not told apart (Demšar, 2006)."""
    count = len(found.ranks)
    half = (count + 1) // 2
    sides = _sides(found)
    pitch = PITCH + LINE_PITCH * max(said.count("\n") for said in sides)
    base = 0.55 + 0.22 * len(found.cliques)
    figure, (axes,) = new_figure(1.2 + 0.22 * len(found.cliques) + pitch * half * 0.65)
    axes.axis("off")
    axes.set_ylim(-base - pitch * half - 0.1, 1.1)
    axes.set_xlim(1 - 0.1 * (count - 1), count + 0.1 * (count - 1))
    _rank_axis(axes, count, found.critical)
    for at, (rank, said) in enumerate(zip(found.ranks.values(), sides, strict=True)):
        left = at < half
        _ranked_label(axes, rank, said, -base - pitch * (at if left else count - 1 - at), count, left)
    for at, clique in enumerate(found.cliques):
        y = -0.3 - 0.22 * at
        ends = [found.ranks[clique[0]] - 0.04, found.ranks[clique[-1]] + 0.04]
        axes.plot(ends, [y, y], color="#0072B2", lw=4, solid_capstyle="round")
    return figure


def _sides(found: Ranking) -> list[str]:
    """What stands beside the line: the first half to its left, the rank behind the name, the others to its right."""
    half = (len(found.ranks) + 1) // 2
    named = enumerate(found.ranks.items())
    return [
        folded(f"{label} ({rank:.2f})" if at < half else f"({rank:.2f}) {label}", SIDE) for at, (label, rank) in named
    ]


def _rank_axis(axes: Axes, count: int, critical: float) -> None:
    """The line of ranks, and above it how far apart two of them must lie."""
    axes.plot([1, count], [0, 0], color="black", lw=1.2)
    for tick in range(1, count + 1, 1 + count // (MOST_TICKS + 1)):
        axes.plot([tick, tick], [0, 0.12], color="black", lw=1)
        axes.text(tick, 0.2, str(tick), ha="center", va="bottom")
    axes.plot([1, 1 + critical], [0.72, 0.72], color="black", lw=1.2, marker="|", ms=6, clip_on=False)
    axes.text(1 + critical / 2, 0.8, f"critical difference {critical:.2f}", ha="center", va="bottom")


def _ranked_label(axes: Axes, rank: float, said: str, y: float, count: int, left: bool) -> None:
    """From the line down and out to the label; the labels' room is the layout's to find."""
    end = 1 - 0.06 * (count - 1) if left else count + 0.06 * (count - 1)
    axes.plot([rank, rank, end], [0, y, y], color="#444444", lw=0.9)
    way = (-3 if left else 3, 0)
    axes.annotate(said, (end, y), way, textcoords="offset points", ha="right" if left else "left", va="center")
