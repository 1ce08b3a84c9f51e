"""``python -m tl_lightning compare DIR [DIR ...]``: which choice was better, honestly."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tl_lightning.commands import given
from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, write_text
from tl_lightning.shown import error, say
from tl_lightning.studies import page, tables
from tl_lightning.studies.choosing import OPTIONS as KEYS
from tl_lightning.studies.page import Plot, title_of
from tl_lightning.studies.study import Study, study
from tl_lightning.studies.verdicts import verdict

if TYPE_CHECKING:
    from tl_lightning.studies.illustrate import Drawn

PAGE = "comparison.html"
FOLDER = "comparison"
MOST_LINES = 11  # of a verdict, on the terminal
USAGE = """\
python -m tl_lightning compare DIR [DIR ...] [by=strategy,data.shots] [metric=accuracy,f1] [KEY=VALUE ...]
  DIR     run directories, multiruns, or any folder above them
  by      keys to group by (by default what differs; seeds are repetitions)
  metric  test metrics to compare (by default the one that selected)
  KEY     only runs that match, as for runs: strategy=full,lora data.shots=64 name=bert_*
  output  where tables, plots and the page go (by default DIR/comparison)
  plots   false leaves them out
  wandb   true keeps the page on Weights & Biases, in the group of the runs
  pdf     true writes each plot as PDF beside its SVG"""


def main(words: Sequence[str]) -> None:
    """Compare the runs that ``words`` name, print the verdict, and write tables, plots and a page."""
    options_, wanted = _apart(words)
    plain, options = given(options_, KEYS)
    if not plain:
        raise UserError(f"compare needs a folder with runs:\n{USAGE}")
    roots = [Path(word) for word in plain]
    found = study(roots, _listed(options["by"]), _listed(options["metric"]), wanted)
    say(told(found))
    for note in found.notes:
        error(f"note: {note}")
    folder = output_folder(roots, options["output"])
    path = write(found, title_of(roots), folder, plots=options["plots"], pdf=options["pdf"])
    if options["wandb"]:
        _publish(found, path)
    say(f"\npage    {path}\ntables  {path.parent}: comparison.md, comparison.tex, groups.csv, pairs.csv, runs.csv")


def _publish(found: Study, path: Path) -> None:
    from tl_lightning.studies.publish import publish

    first = found.runs[0]
    settings = {key.removeprefix("logger."): value for key, value in first.config.items() if key.startswith("logger.")}
    publish(path, str(first.fact("wandb", "group") or first.record.get("name")), settings)


def compare_page(folder: Path) -> Path:
    """Compare all finished runs below ``folder`` by what differs; gives the page written to ``folder``/comparison.

    Raises:
        UserError: there is nothing to compare, or it is not comparable.
    """
    return write(study([folder]), title_of([folder]), output_folder([folder]))


def _apart(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The words of the command, and those that say which runs are meant."""
    pairs = {word: word.partition("=") for word in words}
    wanted = {word for word, (key, equals, _) in pairs.items() if equals and key not in KEYS}
    rest = [word for word in words if word not in wanted]
    return rest, {pairs[word][0]: pairs[word][2] for word in words if word in wanted}


def told(found: Study) -> str:
    """The verdicts and the tables of the groups, for the terminal."""
    parts = []
    for one in found.sets:
        for metric in found.metrics:
            where = f" on {one.name}" if len(found.sets) > 1 else ""
            groups = tables.text(tables.group_rows(one, metric))
            lines = verdict(one, metric)
            more = [f"({len(lines) - MOST_LINES} more comparisons on the page)"] if len(lines) > MOST_LINES else []
            said = "\n".join([*lines[:MOST_LINES], *more])
            parts += [f"test {metric}{where}, {one.examples} examples\n\n{groups}", said]
    return "\n\n".join(parts)


def output_folder(roots: Sequence[Path], asked: str = "") -> Path:
    """Where a study is written: as asked, else in the one folder above the runs, else in the working directory."""
    if asked:
        return Path(asked)
    above = len(roots) == 1 and not (roots[0] / RECORD).exists()
    return roots[0] / FOLDER if above else Path(FOLDER)


def write(found: Study, title: str, folder: Path, plots: bool = True, pdf: bool = False) -> Path:
    """Write tables, plots and the page to ``folder``; gives the page.

    Raises:
        UserError: it cannot be written there.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_tables(found, title, folder)
        drawn, notes, searched = _drawn(found, folder, pdf) if plots else _bare(found)
        write_text(folder / PAGE, page.page(found, title, drawn, notes, searched))
    except OSError as fault:
        reason = fault.strerror or os.strerror(fault.errno or 0)
        raise UserError(f"{folder} cannot be written ({reason}): choose another folder, as output=FOLDER") from fault
    return folder / PAGE


def _write_tables(found: Study, title: str, folder: Path) -> None:
    write_text(folder / "comparison.md", page.markdown(found, title))
    write_text(folder / "comparison.tex", page.latex(found))
    write_text(folder / "groups.csv", tables.groups_csv(found))
    write_text(folder / "pairs.csv", tables.pairs_csv(found))
    write_text(folder / "runs.csv", tables.runs_csv(found))


def _drawn(found: Study, folder: Path, pdf: bool) -> "tuple[Drawn, list[str], list[tuple[str, list[Plot]]]]":
    from tl_lightning.studies import searched  # imports matplotlib, as does the next
    from tl_lightning.studies.illustrate import illustrate

    drawn, notes = illustrate(found, folder, pdf)
    searches, unread = searched.searches(run.folder for run in found.runs)
    return drawn, [*notes, *unread], searched.draw(searches, folder, pdf)


def _bare(found: Study) -> "tuple[Drawn, list[str], list[tuple[str, list[Plot]]]]":
    return [(one, metric, []) for one in found.sets for metric in found.metrics], [], []


def _listed(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]
