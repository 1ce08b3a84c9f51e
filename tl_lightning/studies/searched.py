"""What a search found, drawn: its objectives trial by trial, and how much each parameter matters."""

import csv
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tl_lightning.studies.drawing import COLOURS, GREY, LINE, ROW, house_style, new_figure, save
from tl_lightning.studies.folding import FOLD, folded
from tl_lightning.studies.page import Plot
from tl_lightning.studies.settings import COSTS, HISTORY, IMPORTANCE, QUALITY

KNOWN = 2  # columns before the objectives: trial, state
COMPLETE = "complete"
MOST_PARAMETERS = 12


@dataclass(frozen=True)
class Search:
    """The trials of one search.

    Args:
        name: of its folder.
        numbers: of the trials.
        states: complete, pruned or fail, of each.
        values: of each objective, one per trial, NaN where it has none.
        importances: of each objective, the share of each parameter in the variance of its values.
    """

    name: str
    numbers: list[int]
    states: list[str]
    values: dict[str, list[float]]
    importances: dict[str, dict[str, float]]


def searches(folders: Iterable[Path]) -> tuple[list[Search], list[str]]:
    """The searches whose trials are in ``folders``, and what is to be said of those that cannot be read."""
    found, notes = [], []
    for folder in sorted({folder.parent for folder in folders}):
        if (folder / HISTORY).exists():
            try:
                found.append(_read(folder))
            except (OSError, ValueError, IndexError, csv.Error) as fault:
                notes.append(f"the search in {folder} is not drawn: its {HISTORY} cannot be read ({fault})")
    return found, notes


def _read(folder: Path) -> Search:
    with (folder / HISTORY).open(newline="") as file:
        header, *rows = csv.reader(file)
    rows = [row for row in rows if len(row) == len(header)]  # half a line at the end is passed over
    objectives = []
    for name in header[KNOWN:]:
        if name not in (QUALITY, *COSTS) and not name.startswith("val/"):
            break
        objectives.append(name)
    values = {name: [_number(row[KNOWN + at]) for row in rows] for at, name in enumerate(objectives)}
    return Search(folder.name, [int(row[0]) for row in rows], [row[1] for row in rows], values, _importances(folder))


def _number(text: str) -> float:
    return float(text) if text else math.nan


def _importances(folder: Path) -> dict[str, dict[str, float]]:
    """Empty where the search has not ended, or had too few trials."""
    try:
        content = json.loads((folder / IMPORTANCE).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def draw(found: Sequence[Search], folder: Path, pdf: bool = False) -> list[tuple[str, list[Plot]]]:
    """The title and the plots of each search, written to ``folder``."""
    sections = []
    with house_style():
        for search in found:
            suffix = f"_{search.name}" if len(found) > 1 else ""
            said = (
                "The search trial by trial: complete (filled), pruned (open, the value it had); failed ones are crosses"
            )
            plots = [Plot(*save(history(search), folder / f"history{suffix}", pdf), said)]
            if any(search.importances.values()):
                said = "Share of each parameter in the variance of the objective (fANOVA, Hutter et al., 2014)"
                plots.append(Plot(*save(importance(search), folder / f"importance{suffix}", pdf), said))
            done = search.states.count(COMPLETE)
            sections.append((f"The search {search.name}: {len(search.numbers)} trials, {done} complete", plots))
    return sections


def history(search: Search) -> Figure:
    """Each objective against the number of the trial."""
    figure, all_axes = new_figure(2.8, columns=len(search.values))
    states = np.array(search.states)
    for axes, (name, values) in zip(all_axes, search.values.items(), strict=True):
        _trials(axes, np.array(search.numbers), np.array(values), states)
        axes.set_xlabel("trial")
        axes.set_ylabel(name)
    return figure


def _trials(axes: Axes, numbers: np.ndarray, values: np.ndarray, states: np.ndarray) -> None:
    complete = states == COMPLETE
    axes.plot(numbers[complete], values[complete], "o", ms=5, color=COLOURS[0], mec="white")
    others = ~complete & np.isfinite(values)
    axes.plot(numbers[others], values[others], "o", ms=5, color=COLOURS[0], mfc="none")
    floor = axes.get_ylim()[0]
    without = ~np.isfinite(values)
    axes.plot(numbers[without], np.full(without.sum(), floor), "x", ms=5, color=GREY, clip_on=False)


def importance(search: Search) -> Figure:
    """Bars of each parameter's share, the largest first, one panel for each objective."""
    shares = {name: _largest(found) for name, found in search.importances.items() if found}
    names = {key: folded(key, FOLD // len(shares)) for found in shares.values() for key in found}
    rows, more = max(map(len, shares.values())), max(name.count("\n") for name in names.values())
    figure, all_axes = new_figure(0.9 + (ROW + LINE * more) * rows, columns=len(shares))
    for axes, (objective, found) in zip(all_axes, shares.items(), strict=True):
        axes.barh([names[key] for key in found], list(found.values()), color=COLOURS[0], height=0.6)
        axes.set_title(objective, loc="left")
        axes.set_xlim(0, 1)
    figure.supxlabel("share in the variance")
    return figure


def _largest(shares: dict[str, float]) -> dict[str, float]:
    """Of few parameters all, the largest last."""
    return dict(sorted(shares.items(), key=lambda item: item[1])[-MOST_PARAMETERS:])
