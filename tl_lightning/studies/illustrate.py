"""Draw every plot that a study has the runs for, and say why another one is not drawn."""

import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from tl_lightning.studies import diagrams, plots
from tl_lightning.studies.drawing import house_style, save
from tl_lightning.studies.grouping import numeric
from tl_lightning.studies.page import Plot
from tl_lightning.studies.ranking import Ranking, ranking
from tl_lightning.studies.study import Study, TestSet

Draw = Callable[[], Figure | None]
Drawn = list[tuple[TestSet, str, list[Plot]]]


def illustrate(study: Study, folder: Path, pdf: bool = False) -> tuple[Drawn, list[str]]:
    """Plots by test set and metric, written to ``folder``, and what is to be said of those not drawn."""
    found: Drawn = []
    notes: list[str] = []
    with house_style():
        for number, one in enumerate(study.sets):
            for metric in study.metrics:
                suffix = _suffix(study, one, metric)
                drawn = [
                    Plot(*save(figure, folder / f"{name}{suffix}", pdf), caption)
                    for name, caption, draw in _plots(study, one, metric)
                    if (figure := draw()) is not None
                ]
                if number == 0:
                    drawn += _rank(study, metric, folder, notes, pdf)
                found.append((one, metric, drawn))
    return found, notes


def _suffix(study: Study, one: TestSet, metric: str) -> str:
    words = [metric] * (len(study.metrics) > 1) + [one.name] * (len(study.sets) > 1)
    return "".join(f"_{re.sub(r'[^A-Za-z0-9]+', '-', word)}" for word in words)


def _plots(study: Study, one: TestSet, metric: str) -> list[tuple[str, str, Draw]]:
    key = numeric(list(one.groups.values()), study.keys)
    selected = str(study.runs[0].record.get("selected_by") or f"val/{metric}").removeprefix("val/")
    listed: list[tuple[str, str, Draw]] = [
        ("means", "Means over seeds; a bar that leaves the frame is wider than shown", lambda: plots.means(one, metric))
    ]
    if one.pairs[metric]:
        said = "Differences between groups, over seeds and test examples together"
        listed.append(("differences", said, lambda: plots.differences(one, metric)))
    if key is not None:
        said = f"Test {metric} against {key}: mean over seeds with its 95% interval, and each seed"
        listed.append(("against", said, lambda: diagrams.against(one, metric, key)))
    more = f" (the best {plots.MOST_CURVES} groups)" if len(one.groups) > plots.MOST_CURVES else ""
    listed.append(("curves", f"Learning curves: mean over seeds, and each seed thin{more}",
                   lambda: plots.curves(one, metric, selected)))  # fmt: skip
    if len(one.groups) > 1:
        said = "Cost against quality; large: no group is as good for less (Pareto front)"
        listed.append(("cost", said, lambda: diagrams.cost(one, metric)))
    return listed


def _rank(study: Study, metric: str, folder: Path, notes: list[str], pdf: bool) -> list[Plot]:
    found = ranking(study, metric)
    if not isinstance(found, Ranking):
        notes.append(f"critical-difference diagram ({metric}) {found}")
        return []
    name = f"ranks{_suffix(study, study.sets[0], metric) if len(study.metrics) > 1 else ''}"
    caution = "" if len(study.sets) > 1 else "; over seeds it speaks of this test set alone"
    said = f"Mean ranks over {found.blocks} {found.over} (Friedman p = {found.p:.2g}); bars join groups that"
    saved = save(diagrams.critical_difference(found), folder / name, pdf)
    return [Plot(*saved, f"{said} Nemenyi's test does not tell apart{caution}")]
