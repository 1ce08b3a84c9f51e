"""Means with their intervals, differences with theirs, and learning curves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_lightning.metric_scales import Bounds
from tl_lightning.studies.drawing import GREY, LINE, ROW, legend, look, new_figure
from tl_lightning.studies.folding import FOLD, folded
from tl_lightning.studies.outcomes import Array
from tl_lightning.studies.reading import curve
from tl_lightning.studies.spread import Arm
from tl_lightning.studies.study import Pair, TestSet
from tl_lightning.studies.verdicts import clear, gain, unit

MOST_ROWS = 40
MOST_CURVES = 7  # as many as there are colours


def means(one: TestSet, metric: str) -> Figure:
    """Each group's mean, its seeds, and both intervals."""
    arms = dict(list(one.arms[metric].items())[:MOST_ROWS])
    figure, (axes,) = new_figure(0.95 + ROW * len(arms))
    both = [(one.over_seeds(metric, label), one.over_examples(metric, label)) for label in arms]
    for row, (arm, (spread, drawn)) in enumerate(zip(arms.values(), both, strict=True)):
        _mean_row(axes, row, arm, spread, drawn)
    handles = {name: handle for handle, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles))
    axes.set_xlim(*_frame(list(arms.values()), both))
    _rows(figure, axes, list(arms))
    axes.set_xlabel(f"test {metric}, n = {one.examples} examples")
    return figure


def _mean_row(axes: Axes, row: int, arm: Arm, spread: Bounds | None, drawn: Bounds | None) -> None:
    if drawn:
        axes.plot(drawn, [row, row], color="#b9d7ea", lw=7, solid_capstyle="butt", label="95% over test examples")
    if spread:
        axes.plot(spread, [row, row], color="#0072B2", lw=1.8, label="95% over seeds")
    axes.plot(arm.values, np.full(len(arm.values), row), ".", color=GREY, ms=5, label="one seed", zorder=3)
    axes.plot(arm.mean, row, "o", color="#0072B2", mec="white", ms=7, label="mean", zorder=4)


def _frame(arms: Sequence[Arm], intervals: Sequence[tuple[Bounds | None, Bounds | None]]) -> Bounds:
    """Room for seeds and intervals over examples; with two or three seeds a t-interval would dwarf all else."""
    ends = [end for arm, (_, drawn) in zip(arms, intervals, strict=True) for end in (*arm.values, *(drawn or ()))]
    inside = [end for spread, _ in intervals for end in (spread or ())]
    low, high = min(ends), max(ends)
    room = max(high - low, 1e-3)
    low = max(min([low, *inside]), low - room / 2)
    high = min(max([high, *inside]), high + room / 2)
    return low - 0.04 * room, high + 0.04 * room


def _rows(figure: Figure, axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows; where the names take several lines, all rows are as high as the highest."""
    names = [label if "\n" in label else folded(label) for label in labels]
    more = max((name.count("\n") for name in names), default=0)
    figure.set_figheight(figure.get_figheight() + LINE * len(names) * more)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")


def differences(one: TestSet, metric: str) -> Figure:
    """By how much one group is better than another, with 95% intervals; all pairs, or the best against each."""
    best = next(iter(one.arms[metric]))
    pairs = one.pairs[metric]
    pairs = (pairs if len(pairs) <= MOST_ROWS // 2 else [pair for pair in pairs if pair.better == best])[:MOST_ROWS]
    figure, (axes,) = new_figure(0.8 + ROW * len(pairs))
    axes.axvline(0, color="#444444", lw=1)
    for row, pair in enumerate(pairs):
        _difference(axes, row, pair, metric)
    _rows(figure, axes, [_over(pair) for pair in pairs])
    seeds = "; dotted: one seed, over test examples alone" if any(pair.contrast.one_seed for pair in pairs) else ""
    figure.supxlabel(f"difference in {metric} ({unit(metric)}), 95% interval\nblue: distinguishable (Holm){seeds}")
    return figure


def _difference(axes: Axes, row: int, pair: Pair, metric: str) -> None:
    by, low, high = gain(pair, metric)
    colour = "#0072B2" if clear(pair) else GREY
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [row, row], color=colour, lw=1.8, ls=":" if pair.contrast.one_seed else "-")
    axes.plot(by, row, "o", color=colour, mec="white", ms=7)


def _over(pair: Pair) -> str:
    """The name of a pair: in one line where that is short."""
    name = f"{pair.better}  over  {pair.worse}"
    return name if len(name) <= FOLD else f"{folded(pair.better)}\nover {folded(pair.worse)}"


def curves(one: TestSet, metric: str, selected: str) -> Figure | None:
    """The loss of training and the selecting metric on ``val`` over steps: mean over seeds, and each seed thin."""
    labels = list(one.arms[metric])[:MOST_CURVES]
    names = [f"val/{selected}", "train/loss"]
    figure, both = new_figure(2.9, columns=2)
    drawn = [_curve(axes, one, label, name, at) for axes, name in zip(both, names, strict=True)
             for at, label in enumerate(labels)]  # fmt: skip
    if not any(drawn):
        return None
    for axes, name in zip(both, names, strict=True):
        axes.set_xlabel("step")
        axes.set_title(name, loc="left")
    legend(figure, both[0], len(labels))
    return figure


def _curve(axes: Axes, one: TestSet, label: str, name: str, at: int) -> bool:
    lines = [points for run in one.groups[label].runs.values() if (points := curve(run, name))]
    colour = look(at)["color"]
    for points in lines:
        axes.plot(*zip(*points, strict=True), color=colour, lw=0.6, alpha=0.35)
    if lines:
        steps, mean = mean_curve(lines)
        axes.plot(steps, mean, color=colour, lw=1.8, marker="o" if len(steps) < 15 else "", ms=3, label=label)
    return bool(lines)


def mean_curve(lines: Sequence[Sequence[tuple[int, float]]]) -> tuple[Array, Array]:
    """The mean over seeds at every step that stands in all of them, or in the first where none does."""
    common = sorted(set.intersection(*({step for step, _ in line} for line in lines)))
    steps = np.array(common or [step for step, _ in lines[0]], float)
    return steps, np.mean([np.interp(steps, *np.array(line, float).T) for line in lines], axis=0)
