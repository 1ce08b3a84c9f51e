"""Which of the runs that were found are meant: ``KEY=VALUE`` words that a run must match."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from tl_lightning.errors import UserError
from tl_lightning.studies.reading import Run
from tl_lightning.studies.spelling import TARGET, spelled, word
from tl_lightning.values import nearest

OPTIONS = {"by": "", "metric": "", "output": "", "plots": True, "pdf": False, "wandb": False}  # of compare itself
MOST_VALUES = 8


def matches(said: str, asked: str, key: str = "") -> bool:
    """Whether a word is the one asked for, however that is typed, or fits a pattern between commas (``bert_*``)."""
    if said in (asked, spelled(asked, key)):
        return True
    return any(said == spelled(pattern, key) or fnmatchcase(said, pattern) for pattern in asked.split(","))


def chosen(runs: Sequence[Run], wanted: Mapping[str, str]) -> list[Run]:
    """The runs that match every one of ``wanted``: names of groups (``strategy``) or keys (``data.shots``).

    Args:
        runs: finished runs.
        wanted: by key, the values between commas.

    Raises:
        UserError: a key that no run has, or nothing that matches.
    """
    if not wanted or not runs:
        return list(runs)
    said = [_words(run) for run in runs]
    known = {key for words in said for key in words}
    for key, value in wanted.items():
        if key not in known:
            raise UserError(f"{key}={value}: there is no {key}{nearest(key, [*OPTIONS, *known])}")
    found = [
        run
        for run, words in zip(runs, said, strict=True)
        if all(matches(words.get(key, ""), value, key) for key, value in wanted.items())
    ]
    if not found:
        raise UserError(_nothing(said, wanted))
    return found


def _words(run: Run) -> dict[str, str]:
    config = {key.removesuffix(f".{TARGET}"): word(value, key) for key, value in run.config.items()}
    return {**config, **run.choices, "seed": str(run.seed)}


def _nothing(said: Sequence[Mapping[str, str]], wanted: Mapping[str, str]) -> str:
    asked = " ".join(f"{key}={value}" for key, value in wanted.items())
    lines = []
    for key in wanted:
        values = sorted({words.get(key, "") for words in said})
        more = ", ..." if len(values) > MOST_VALUES else ""
        lines.append(f"  {key}: {', '.join(values[:MOST_VALUES])}{more}")
    return f"{asked}: no finished run is so; there are\n" + "\n".join(lines)
