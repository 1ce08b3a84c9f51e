"""The tables of a study: for the terminal, Markdown, LaTeX and CSV."""

import csv
import io
import math
import shutil
from collections.abc import Iterable, Sequence
from typing import Any

from tl_lightning.metric_scales import Bounds
from tl_lightning.report import aligned
from tl_lightning.studies.folding import folded
from tl_lightning.studies.grouping import numeric
from tl_lightning.studies.spread import Contrast
from tl_lightning.studies.study import Study, TestSet
from tl_lightning.studies.verdicts import clear, gain, p_word, unit

Rows = list[list[str]]
UNKNOWN = "unknown"
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
GROUPS = ("", "seeds", "mean", "sd", "95% over seeds", "95% over test examples")
PAIRS = ("better", "worse", "difference", "95% interval", "p", "p (Holm)", "seeds", "")


def group_rows(one: TestSet, metric: str) -> Rows:
    """A heading and a row for each group, the best first."""
    rows = [list(GROUPS)]
    for label, arm in one.arms[metric].items():
        few = len(arm.values) < 2
        rows.append(
            [
                label,
                str(len(arm.values)),
                f"{arm.mean:.4f}",
                "one seed" if few else f"{arm.values.std(ddof=1):.4f}",
                bounds(one.over_seeds(metric, label)),
                bounds(one.over_examples(metric, label)),
            ]
        )
    return rows


def bounds(interval: Bounds | None) -> str:
    """An interval in words."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}" if interval else UNKNOWN


def crossed_rows(one: TestSet, metric: str, keys: Sequence[str]) -> Rows:
    """A row for each choice, a column for each value of the one numeric key: mean over seeds and its 95% interval.

    Empty where not exactly one key is numeric, or nothing else was chosen.
    """
    key = numeric(list(one.groups.values()), keys)
    if key is None or len(keys) < 2:
        return []
    cells: dict[str, dict[float, str]] = {}
    for label, arm in one.arms[metric].items():
        values = one.groups[label].values
        row = ", ".join(value for other, value in values.items() if other != key)
        ends = one.over_seeds(metric, label)
        cell = f"{arm.mean:.3f}" + (f" ({ends[0]:.3f} to {ends[1]:.3f})" if ends else "")
        cells.setdefault(row, {})[float(values[key])] = cell
    numbers = sorted({number for row in cells.values() for number in row})
    return [
        [key, *(f"{number:g}" for number in numbers)],
        *([row, *(found.get(number, "") for number in numbers)] for row, found in cells.items()),
    ]


def pair_rows(one: TestSet, metric: str) -> Rows:
    """A heading and a row for each pair of groups, the better one first."""
    rows = [[*PAIRS[:2], f"difference ({unit(metric)})", *PAIRS[3:]]]
    for pair in one.pairs[metric]:
        found, (by, low, high) = pair.contrast, gain(pair, metric)
        verdict = "one seed: no verdict" if found.one_seed else "better" if clear(pair) else needed(found)
        seeds = f"{found.seeds}" if pair.paired else f"{found.seeds}, unpaired"
        known = math.isfinite(low) and math.isfinite(high)
        amounts = [f"{by:.3g}", f"{low:.3g} to {high:.3g}" if known else UNKNOWN]
        rows.append(
            [
                pair.better,
                pair.worse,
                *amounts,
                p_word(found.p).removeprefix("= "),
                p_word(pair.p).removeprefix("= "),
                seeds,
                verdict,
            ]
        )
    return rows


def needed(found: Contrast) -> str:
    """What would tell two groups apart, in few words."""
    if found.more_seeds:
        return f"open: about {found.more_seeds} seed{'s' if found.more_seeds > 1 else ''} more"
    return f"open: about {found.more_examples:,} examples" if found.more_examples else "open"


def all_metrics(one: TestSet) -> Rows:
    """A row for each group, a column for each metric: mean and standard deviation over seeds."""
    names = list(one.arms)
    rows = [["", "seeds", *names]]
    for label in next(iter(one.arms.values())):
        arms = [one.arms[name][label] for name in names]
        cells = [f"{a.mean:.4f}" + (f" ± {a.values.std(ddof=1):.4f}" if len(a.values) > 1 else "") for a in arms]
        rows.append([label, str(len(arms[0].values)), *cells])
    return rows


def text(rows: Rows, width: int = 0) -> str:
    """For the terminal; where labels leave too little of its width, each stands in a line above its numbers.

    Args:
        rows: a heading and lines; their first column are the labels.
        width: in letters; by default that of the terminal, or 80.
    """
    width = width or shutil.get_terminal_size().columns
    beside = aligned(rows)
    if max(map(len, beside.splitlines())) <= width:
        return beside
    heading, *numbers = aligned([row[1:] for row in rows], left=0).splitlines()
    labels = [folded(row[0], width) for row in rows[1:]]
    lines = [f"{label}\n  {line}" for label, line in zip(labels, numbers, strict=True)]
    return "\n".join([f"  {heading}", *lines])


def markdown(rows: Rows) -> str:
    """A table in Markdown."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [cells[0], ["---"] * len(cells[0]), *cells[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def latex(rows: Rows, caption: str) -> str:
    """A table in LaTeX with booktabs' rules."""
    cells = [[cell.translate(LATEX).replace("<", "$<$") for cell in row] for row in rows]
    body = [" & ".join(row) + r" \\" for row in cells]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{caption.translate(LATEX)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(rows[0]) - 1)}}}",
            r"    \toprule",
            f"    {body[0]}",
            r"    \midrule",
            *(f"    {line}" for line in body[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
        ]
    )


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


def groups_csv(study: Study) -> str:
    """Every group by every metric on every test set, in full precision."""
    heading = ["test_set", "metric", *study.keys, "group", "seeds", "examples", "mean", "sd"]
    rows: list[list[Any]] = [[*heading, "seeds_low", "seeds_high", "examples_low", "examples_high"]]
    for one in study.sets:
        for metric, arms in one.arms.items():
            for label, arm in arms.items():
                values = [one.groups[label].values[key] for key in study.keys]
                spread = float(arm.values.std(ddof=1)) if len(arm.values) > 1 else ""
                ends = [
                    found or ("", "") for found in (one.over_seeds(metric, label), one.over_examples(metric, label))
                ]
                facts = [len(arm.values), one.examples, arm.mean, spread, *ends[0], *ends[1]]
                rows.append([one.name, metric, *values, label, *facts])
    return csv_text(rows)


def pairs_csv(study: Study) -> str:
    """Every comparison; the difference is better minus worse, in the metric's own unit."""
    heading = ["test_set", "metric", "better", "worse", "difference", "low", "high", "p", "p_holm", "seeds", "paired"]
    rows: list[list[Any]] = [[*heading, "distinguishable", "one_seed", "more_seeds", "more_examples"]]
    for one in study.sets:
        for metric, pairs in one.pairs.items():
            for pair in pairs:
                c = pair.contrast
                numbers = [c.difference, *c.interval, c.p, pair.p, c.seeds, pair.paired, clear(pair), c.one_seed]
                rows.append([one.name, metric, pair.better, pair.worse, *numbers, c.more_seeds, c.more_examples])
    return csv_text(rows)


def runs_csv(study: Study) -> str:
    """Every run that was compared: where it is, its group and its test metrics."""
    names = list(dict.fromkeys(name for one in study.sets for name in one.arms))
    rows: list[list[Any]] = [["folder", "test_set", "group", "seed", *names]]
    for one in study.sets:
        for label, group in one.groups.items():
            runs = [(run, run.metrics()) for run in group.runs.values()]
            rows += [[run.folder, one.name, label, run.seed, *(m.get(name, "") for name in names)] for run, m in runs]
    return csv_text(rows)
