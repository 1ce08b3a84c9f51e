"""What differs between runs, and which runs are repetitions of one another."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tl_lightning.errors import UserError
from tl_lightning.studies.reading import Run
from tl_lightning.studies.spelling import TARGET, word
from tl_lightning.values import nearest

SCALARS = ("seed", "output_dir", "resume", "hydra", "defaults", "logger")  # what a result does not hang on
BESIDE = frozenset(  # nor on these
    {
        "data.cache_dir",
        "data.num_workers",
        "trainer.default_root_dir",
        "trainer.enable_model_summary",
        "trainer.enable_progress_bar",
        "trainer.log_every_n_steps",
        "trainer.logger",
        "trainer.profiler",
    }
)
NAME = "name"
View = dict[str, str]


@dataclass
class Group:
    """Runs that differ in nothing but the seed (and in what was pooled)."""

    label: str
    values: View
    runs: dict[tuple[str, ...], Run] = field(default_factory=dict)  # by repetition


@dataclass
class Grouping:
    """The groups, the keys that tell them apart, and what is to be said of it."""

    keys: list[str]
    groups: list[Group]
    notes: list[str]


def grouped(runs: Sequence[Run], by: Sequence[str] = (), within: Sequence[Any] = ()) -> Grouping:
    """Group runs by what differs between their configurations.

    Seeds are repetitions.  A key that says nothing new beside the keys before it (it moves along with them) is left
    out and named.

    Args:
        runs: finished runs.
        by: keys to group by instead; what else differs is then pooled.
        within: for each run, what it is compared within (a test set): a key that is constant there tells nothing.

    Raises:
        UserError: a key of ``by`` does not differ or is not there.
    """
    within = within or [None] * len(runs)
    views = _views(runs)
    candidates = _varying(views, within)
    keys, along = _telling(views, candidates, within)
    notes = [f"moves along with what is compared, so its part cannot be told: {', '.join(along)}"] if along else []
    pooled: list[str] = []
    if by:
        asked = list(by)
        _check(asked, views)
        pooled = [key for key in _telling(views, [*asked, *candidates], within)[0] if key not in asked]
        notes = (
            [f"differs too, and is pooled (each value counts as a repetition, as a seed does): {', '.join(pooled)}"]
            if pooled
            else []
        )
        keys = asked
    return Grouping(keys, *_collect(runs, views, keys, pooled, within, notes))


def _views(runs: Sequence[Run]) -> list[View]:
    """Each run as words by key: the names of groups first, then every key that may matter."""
    chosen = {group for run in runs for group in run.choices}
    known = [group for group in sorted(chosen) if all(group in run.choices for run in runs)]
    same_data = len({run.fact("data", "fingerprint") for run in runs}) == 1 and runs[0].fact("data", "fingerprint")
    views = []
    for run in runs:
        view = {}
        for key, value in run.config.items():
            top = key.partition(".")[0]
            if top not in view and top in known and top not in SCALARS:
                view[top] = run.choices[top]
            if _matters(key, value, bool(same_data)):
                said = word(value, key)
                view[key.removesuffix(f".{TARGET}")] = _for_any_seed(said, run.seed)
        views.append({**view, **{g: run.choices[g] for g in known if g not in SCALARS}})
    return views


def _matters(key: str, value: Any, same_data: bool) -> bool:
    top = key.partition(".")[0]
    last = key.rpartition(".")[2]
    if top in SCALARS or key in BESIDE or last == "_partial_" or last == "seed" or last.endswith("_seed"):
        return False
    is_path = same_data and top == "data" and isinstance(value, str) and "/" in value
    return not is_path


def _for_any_seed(said: str, seed: int) -> str:
    """A path without the run's own seed: what ``.../seed_${seed}/best.ckpt`` was before it was resolved."""
    return re.sub(rf"(seed[_=-]?){seed}(?!\d)", r"\1*", said) if "/" in said else said


def _varying(views: Sequence[View], within: Sequence[Any]) -> list[str]:
    """Keys with more than one word inside some part of ``within``, names of groups before single keys."""
    keys = list(dict.fromkeys(key for view in views for key in view))
    words: dict[tuple[Any, str], set[str | None]] = {}
    for view, part in zip(views, within, strict=True):
        for key in keys:
            words.setdefault((part, key), set()).add(view.get(key))
    found = [key for key in keys if key != NAME and any(len(words[part, key]) > 1 for part in dict.fromkeys(within))]
    return sorted(found, key=lambda key: "." in key)


def _telling(views: Sequence[View], candidates: Iterable[str], within: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The keys that each split the runs further, and those that only move along and are no part of one of them."""
    keys: list[str] = []
    along = []
    labels: list[tuple[Any, ...]] = [(part,) for part in within]
    for key in dict.fromkeys(candidates):
        finer = [(*label, view.get(key)) for label, view in zip(labels, views, strict=True)]
        if len(set(finer)) > len(set(labels)):
            keys.append(key)
            labels = finer
        elif not any(key.startswith(f"{kept}.") for kept in keys):
            along.append(key)
    return keys, along


def _check(asked: Sequence[str], views: Sequence[View]) -> None:
    legal = list(dict.fromkeys(key for view in views for key in view))
    for key in asked:
        if key.rpartition(".")[2] == "seed":
            raise UserError(f"by={key}: seeds are repetitions, not something to compare; by=strategy is an example")
        if key not in legal:
            raise UserError(f"by={key}: no configuration here has {key}{nearest(key, legal)}")


def _collect(
    runs: Sequence[Run],
    views: Sequence[View],
    keys: Sequence[str],
    pooled: Sequence[str],
    within: Sequence[Any],
    notes: list[str],
) -> tuple[list[Group], list[str]]:
    short = {key: _short(key, keys) for key in keys}
    groups: dict[str, Group] = {}
    oldest_first = sorted(zip(runs, views, within, strict=True), key=lambda item: item[0].started)
    for run, view, part in oldest_first:
        label = ", ".join(_named(short[key], key, view.get(key, "-")) for key in keys) or "all runs"
        values = {key: view.get(key, "-") for key in keys}
        group = groups.setdefault(label, Group(label, values))
        repetition = (str(part), str(run.seed), *(view.get(key, "-") for key in pooled))
        if repetition in group.runs:
            notes.append(f"left out: {group.runs[repetition].folder}: {run.folder} is the same run with the same seed")
        group.runs[repetition] = run
    order = {id(run): at for at, run in enumerate(runs)}
    ranked = sorted(groups.values(), key=lambda group: min(order[id(run)] for run in group.runs.values()))
    return ranked, notes


def _short(key: str, keys: Sequence[str]) -> str:
    last = key.rpartition(".")[2]
    return key if last == NAME or sum(other.rpartition(".")[2] == last for other in keys) > 1 else last


def _named(short: str, key: str, value: str) -> str:
    """``lora`` for the name of a group, ``shots=8`` for a key."""
    return f"{short}={value}" if "." in key else value


def numeric(groups: Sequence[Group], keys: Sequence[str]) -> str | None:
    """The one key whose words are all numbers, at least three of them; None if there is no such key, or more."""
    found = [key for key in keys if _all_numbers({group.values[key] for group in groups})]
    return found[0] if len(found) == 1 else None


def _all_numbers(words: set[str]) -> bool:
    try:
        return len({float(w) for w in words}) >= 3
    except ValueError:
        return False
