"""Refuse to compare what is not comparable."""

from collections.abc import Callable, Sequence
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.studies.reading import Run
from tl_lightning.studies.spelling import word

SHOWN = 4
UNKNOWN = "unknown"


def refuse_selection_on_test(runs: Sequence[Run]) -> None:
    """Raise UserError where the test split has selected: a number on it then flatters the model."""
    guilty = [run for run in runs if _selected_on_test(run)]
    if guilty:
        raise UserError(
            f"The test split has selected in {_listed(guilty)}: such numbers are no evidence. "
            f"Leave these runs out, or run them with a validation split of their own."
        )


def _selected_on_test(run: Run) -> bool:
    prints = run.fact("data", "fingerprints") or {}
    same = prints.get("test") is not None and prints.get("test") == prints.get("val")
    return same or str(run.record.get("selected_by") or "").startswith("test/")


def test_set(run: Run) -> str:
    """The fingerprint of the test split."""
    return str(run.fact("data", "fingerprints", "test") or UNKNOWN)


def refuse_unlike(runs: Sequence[Run], name: str) -> None:
    """Raise UserError where runs on one test set have different objectives.

    Args:
        runs: on one test set.
        name: of the test set.
    """
    kinds = _by(runs, lambda run: str(run.config.get("objective._target_", UNKNOWN)).rpartition(".")[2])
    if len(kinds) > 1:
        raise UserError(f"The runs on {name} have different objectives and share no scale: {_counted(kinds)}")


def refuse_unlike_losses(runs: Sequence[Run], metrics: Sequence[str]) -> None:
    """Raise UserError where losses are compared that are defined differently."""
    kinds = _by(
        runs, lambda run: " ".join(f"{k}={word(v, k)}" for k, v in sorted(run.config.items()) if _shapes_loss(k))
    )
    if "loss" in metrics and len(kinds) > 1:
        raise UserError(
            f"metric=loss: the runs measure their loss differently ({_counted(kinds)}); compare another metric"
        )


def _shapes_loss(key: str) -> bool:
    return key.startswith("objective.") and key not in ("objective._target_", "objective.monitor")


def selectable(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Those that have the metric by which they were selected, as a number; and a line for each of the others.

    A record has null for what is no number.  Where none has it, all are kept: another metric may be asked for.
    """
    kept = [run for run in runs if _selected_by(run) in ("", *run.metrics())]
    if not kept:
        return list(runs), []
    lost = [run for run in runs if run not in kept]
    return kept, [f"left out: {run.folder} has no number as its test/{_selected_by(run)}" for run in lost]


def _selected_by(run: Run) -> str:
    return str(run.record.get("selected_by") or "").removeprefix("val/")


def chosen_metrics(runs: Sequence[Run], asked: Sequence[str]) -> list[str]:
    """The metrics to compare: as asked, else the one that selected.

    Raises:
        UserError: one is not there (lists those that are), or runs were selected by different ones.
    """
    everywhere = set.intersection(*(set(run.metrics()) for run in runs))
    names = [name.removeprefix("test/") for name in asked]
    if not names:
        kinds = _by(runs, _selected_by)
        if len(kinds) > 1:
            raise UserError(
                f"The runs were selected by different metrics ({_counted(kinds)}): say which, as metric=NAME"
            )
        if "" in kinds:
            raise UserError(f"Nothing was selected on val in {_listed(runs)}: say which metric, as metric=NAME")
        names = list(kinds)
    for name in names:
        if name not in everywhere:
            raise UserError(f"metric={name}: not every run has it; all of them have: {', '.join(sorted(everywhere))}")
    return list(dict.fromkeys(names))


def unlike_precisions(runs: Sequence[Run]) -> list[str]:
    """A note where the hardware chose, and chose differently: no configuration tells such runs apart."""
    kinds = _by(
        [run for run in runs if run.config.get("trainer.precision") is None and run.record.get("precision")],
        lambda run: str(run.record["precision"]),
    )
    if len(kinds) < 2:
        return []
    return [
        f"computed in different precisions, as their hardware suggested, which can move a metric ({_counted(kinds)}); "
        f"trainer.precision=32-true makes such runs alike"
    ]


def not_selected(runs: Sequence[Run]) -> list[str]:
    """A note where no validation has selected: such runs show the weights at the end of their training."""
    last = [run for run in runs if not run.record.get("selected_by")]
    return [f"tested with the weights at the end, since nothing was selected on val: {_listed(last)}"] if last else []


def not_crossed(names: Sequence[str], counts: Sequence[int]) -> UserError:
    """What to say where no two groups share a test set."""
    sets = "; ".join(f"{name} ({count} runs)" for name, count in zip(names, counts, strict=True))
    return UserError(
        f"These runs were tested on different test sets, so no two kinds of run can be compared: {sets}. "
        f"Compare runs that were tested on the same examples."
    )


def _by(runs: Sequence[Run], of: Callable[[Run], str]) -> dict[str, list[Run]]:
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(of(run), []).append(run)
    return found


def _counted(kinds: dict[str, list[Any]]) -> str:
    return "; ".join(f"{kind or 'none'}: {_listed(runs)}" for kind, runs in kinds.items())


def _listed(runs: Sequence[Run]) -> str:
    more = f" and {len(runs) - SHOWN} more" if len(runs) > SHOWN else ""
    return ", ".join(str(run.folder) for run in runs[:SHOWN]) + more
