"""One page with everything a study says, in one file that needs nothing else."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from tl_lightning.studies import tables
from tl_lightning.studies.study import Study, TestSet
from tl_lightning.studies.tables import Rows
from tl_lightning.studies.verdicts import verdict

METHOD = """\
Seeds are repetitions of one configuration. "Over seeds" is the t-interval of the mean over seeds; "over test examples"
is the interval of the same mean over other draws of examples: the one speaks of training again, the other of another
test set. That of an accuracy is Clopper and Pearson's for shares (1934); F1, precision, recall, MCC and AUROC have the
same with the number of examples that their variance over resamples says (Korn and Graubard, 1998); other metrics have
percentiles of the bootstrap, moved outwards as far as t is wider than normal (Hesterberg, 2015). No interval leaves
what the metric can be, and "unknown" stands where the runs say nothing: one seed, or one example. A comparison counts
both sources of chance: its variance is the variance of the paired differences over seeds plus the part of the examples
that more seeds do not take away (examples crossed with seeds, as in Clark, 1973; see Bouthillier et al., 2021), and is
never less than what differing in two examples would give where fewer differed. The half width of its interval is the
mean of Cochran's and Satterthwaite's (with two seeds Cochran's), which simulated studies with a known truth bear out
(experiments/comparison_validity). The p-values of all pairs are corrected together (Holm, 1979). "About k seeds more"
is what would find a difference as large as the one seen with a power of 80%: an estimate from a small study. What the
choice of training data adds to chance is not counted unless they change with the seed."""

WORDS_OF_PAIRS = (0, 1, 7)  # columns that hold words: they may take several lines
WORDS_OF_RUNS = (0, 2)
PARTS = re.compile(r"(?<=[/,])(?=\S)")  # where a label may be broken: after a part of a path or of a list
SHORT = 24  # letters of a word that is not broken
CSS = Path(__file__).parents[1] / "assets" / "comparison.css"


@dataclass(frozen=True)
class Plot:
    """A plot on the page: the names of its files beside the page, its picture as a data URI, what it shows."""

    files: list[str]
    uri: str
    caption: str


def page(
    study: Study,
    title: str,
    plots: Sequence[tuple[TestSet, str, list[Plot]]],
    extra: Sequence[str],
    searched: Sequence[tuple[str, list[Plot]]] = (),
) -> str:
    """The page as HTML.

    Args:
        study: what was compared.
        title: of the page.
        plots: by test set and metric.
        extra: what is to be said of plots that are not there.
        searched: title and plots of each search that the runs are trials of.
    """
    count = f"{len(study.runs)} runs by {', '.join(study.keys) or 'nothing'}"
    sections = [_section(one, metric, found, len(study.sets) > 1, study.keys) for one, metric, found in plots]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{escape(title)}</title><style>{CSS.read_text()}</style></head><body>",
            f"<h1>{escape(title)}</h1><p class=meta>{escape(count)}; metric: {escape(', '.join(study.metrics))}</p>",
            *(_notes([*study.notes, *extra])),
            *sections,
            *("\n".join([f"<h2>{escape(said)}</h2>", *map(_figure, found)]) for said, found in searched),
            "<h2>Every metric</h2>",
            *(_every_metric(one) for one in study.sets),
            "<h2>How it was computed</h2>",
            f"<p class=method>{escape(METHOD)}</p>",
            "<details><summary>The runs</summary>",
            *(_table(_run_rows(one), WORDS_OF_RUNS) for one in study.sets),
            "</details></body></html>",
            "",
        ]
    )


def _section(one: TestSet, metric: str, plots: Iterable[Plot], named: bool, keys: Sequence[str]) -> str:
    where = f" on {one.name}" if named else ""
    headline, *sentences = (escape(line) for line in verdict(one, metric))
    listed = f"<ul>{''.join(f'<li>{line}</li>' for line in sentences)}</ul>" if sentences else ""
    pairs, crossed = tables.pair_rows(one, metric), tables.crossed_rows(one, metric, keys)
    return "\n".join(
        [
            f"<h2>{escape(metric)}{escape(where)}</h2><div class=verdict><p>{headline}</p>{listed}</div>",
            *([_table(crossed)] if crossed else []),
            _table(tables.group_rows(one, metric)),
            *(_figure(plot) for plot in plots),
            *([f"<h3>All comparisons</h3>{_table(pairs, WORDS_OF_PAIRS)}"] if len(pairs) > 1 else []),
        ]
    )


def _notes(notes: Sequence[str]) -> list[str]:
    return [f"<div class=notes><ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul></div>"] if notes else []


def _figure(plot: Plot) -> str:
    links = ", ".join(f'<a href="{name}">{name}</a>' for name in plot.files)
    caption = f"<figcaption>{escape(plot.caption)} ({links})</figcaption>"
    return f'<figure><img alt="{escape(plot.caption)}" src="{plot.uri}">{caption}</figure>'


def _every_metric(one: TestSet) -> str:
    caption = (
        f"<p class=meta>{escape(one.name)}: mean ± standard deviation over seeds, {one.examples} test examples</p>"
    )
    return caption + _table(tables.all_metrics(one))


def _run_rows(one: TestSet) -> Rows:
    runs = [(label, run) for label, group in one.groups.items() for run in group.runs.values()]
    return [["group", "seed", "folder"], *([label, str(run.seed), str(run.folder)] for label, run in runs)]


def _table(rows: Rows, words: Sequence[int] = (0,)) -> str:
    """A table; its columns ``words`` hold words, to the left and in lines where they are long, the others numbers.

    It scrolls by itself where the screen is too narrow, by keys too, and shadows show where there is more.
    """
    head, *body = [
        "".join(_cell(cell, tag, at in words) for at, cell in enumerate(row))
        for row, tag in zip(rows, ["th", *["td"] * len(rows)], strict=False)
    ]
    lines = "".join(f"<tr>{line}</tr>" for line in body)
    return f"<div class=wide tabindex=0><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>"


def _cell(cell: str, tag: str, words: bool) -> str:
    if not words:
        return f"<{tag}>{escape(cell)}</{tag}>"
    kind = '"words long"' if max(map(len, cell.split()), default=0) > SHORT else "words"
    return f"<{tag} class={kind}>{PARTS.sub('<wbr>', escape(cell))}</{tag}>"


def markdown(study: Study, title: str) -> str:
    """Verdicts and tables for a README."""
    parts = [f"# {title}"]
    for one in study.sets:
        for metric in study.metrics:
            where = f" on {one.name}" if len(study.sets) > 1 else ""
            headline, *sentences = verdict(one, metric)
            parts += [f"## {metric}{where}", f"**{headline}**", "\n".join(f"- {line}" for line in sentences)]
            crossed = tables.crossed_rows(one, metric, study.keys)
            rows = [crossed, tables.group_rows(one, metric), tables.pair_rows(one, metric)]
            parts += [tables.markdown(found) for found in rows if found]
    notes = "\n".join(f"- {note}" for note in study.notes)
    method = f"## How it was computed\n\n{METHOD}"
    return "\n\n".join(part for part in [*parts, notes, method] if part) + "\n"


def latex(study: Study) -> str:
    """Tables for a paper; they need the package booktabs."""
    parts = ["% needs \\usepackage{booktabs}"]
    for one in study.sets:
        for metric in study.metrics:
            n = f"{one.examples} test examples of {one.name}"
            said = f"Test {metric}: mean and standard deviation over seeds, 95% intervals; {n}."
            parts.append(tables.latex(tables.group_rows(one, metric), said))
            if crossed := tables.crossed_rows(one, metric, study.keys):
                parts.append(tables.latex(crossed, f"Test {metric}: mean over seeds and its 95% interval; {n}."))
            if one.pairs[metric]:
                pairs = tables.pair_rows(one, metric)
                parts.append(tables.latex(pairs, f"Differences in test {metric} over seeds and {n}."))
    return "\n\n".join(parts) + "\n"


def title_of(roots: Sequence[Path]) -> str:
    """What a study is called: its folders."""
    return "Comparison of " + ", ".join(root.resolve().name for root in roots[:3]) + (" ..." if len(roots) > 3 else "")
