"""Every command of every study composes and passes the check."""

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tl_lightning.check import check
from tl_lightning.commands import COMMANDS

SCRIPTS = sorted((Path(__file__).parent.parent / "experiments").glob("*/run.sh"))
SPREAD = re.compile(r"^([^=]+)=([^\[{(]*,.*)$")  # of a sweep: data.shots=1,3
Compose = Callable[..., dict[str, Any]]


def _commands() -> Iterator[tuple[str, list[str]]]:
    for script in SCRIPTS:
        for line in script.read_text().splitlines():
            if line.startswith("python -m tl_lightning"):
                yield script.parent.name, shlex.split(line)[3:]


def _jobs(words: list[str]) -> Iterator[list[str]]:
    """Each job of a multirun by its own words."""
    axes = [
        [f"{m[1]}={value}" for value in m[2].split(",")] if (m := SPREAD.match(word)) else [word]
        for word in words
        if word != "--multirun"
    ]
    yield from map(list, product(*axes))


def test_there_are_as_many_studies_and_commands_as_it_seems() -> None:
    found = list(_commands())
    assert {study for study, _ in found} == {"few_labels", "digits_transfer", "pretraining"}
    assert len(found) == 20


@pytest.mark.parametrize("words", [words for _, words in _commands() if words[0] not in COMMANDS], ids=" ".join)
def test_each_job_composes_and_passes_the_check(words: list[str], compose: Compose) -> None:
    jobs = list(_jobs(words))
    assert len(jobs) >= 5, "five seeds"
    for job in [jobs[0], jobs[-1]]:
        check(compose(*job))
