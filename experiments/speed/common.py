"""What the measurements share: taking turns, counting what is called, and the file that a table is made from."""

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

HERE = Path(__file__).parent
FEWEST_ROUNDS = 7
Arms = Mapping[str, Callable[[], float]]


def options(doc: str | None, name: str) -> argparse.ArgumentParser:
    """The command's options: all measurements have these."""
    found = argparse.ArgumentParser(description=str(doc).splitlines()[0])
    found.add_argument("--rounds", type=int, default=9, help="of all sides in turn; one more warms up")
    found.add_argument("--output", type=Path, default=HERE / f"{name}.json")
    found.add_argument("--trial", action="store_true", help="one round, to see that all works: its figures are none")
    return found


def rounds(given: argparse.Namespace) -> int:
    """How many count."""
    if not given.trial and given.rounds < FEWEST_ROUNDS:
        raise SystemExit(f"--rounds {given.rounds}: at least {FEWEST_ROUNDS} are needed for a median that holds")
    return 1 if given.trial else int(given.rounds)


def in_turn(arms: Arms, count: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """One number of each arm in each round, A B C A B C; the first round warms up and does not count."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(count + warm_up):
        for name, arm in arms.items():
            value = arm()
            if number >= warm_up:
                found[name].append(value)
                print(f"{number + 1 - warm_up}/{count} {name}: {value:.4g}", flush=True)
    return found


def beside(found: Mapping[str, list[float]], base: str) -> dict[str, dict[str, float]]:
    """The median of each arm, and its ratio to that of ``base``, with the extremes over the rounds' own ratios."""
    results = {}
    for name, values in found.items():
        pairs = sorted(b / a for a, b in zip(found[base], values, strict=True))
        median = statistics.median(values)
        ratio = median / statistics.median(found[base])
        results[name] = {"median": median, "ratio": ratio, "lowest": pairs[0], "highest": pairs[-1], "n": len(values)}
    return results


def _short(word: str) -> str:
    """A path of this machine says nothing to others: its last part does."""
    return Path(word).name if os.path.isabs(word) else word


def facts() -> dict[str, Any]:
    """What was measured where, when, and by which command."""
    import torch

    from tl_lightning.origin import git_state, versions

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    machine = {"device": device, "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", os.path.relpath(sys.argv[0], HERE.parents[1]), *map(_short, sys.argv[1:])]),
        "git": git_state(HERE),
        "versions": {**versions(), "python": platform.python_version()},
        "machine": {**machine, "machine": platform.machine()},
    }


def write(path: Path, **results: Any) -> None:
    """Write results with what they were measured on."""
    path.write_text(json.dumps({**facts(), **results}, indent=2) + "\n")


def peak_mib() -> float:
    """The largest resident size of this process, MiB."""
    from tl_lightning.record import peak_memory_bytes

    return peak_memory_bytes()["host"] / 2**20


@contextmanager
def python_calls(counts: list[int]) -> Iterator[None]:
    """Append how many Python functions the block calls: the same on every machine."""
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(None)
        counts.append(calls)


@contextmanager
def operators(counts: list[int]) -> Iterator[None]:
    """Append how many operators of PyTorch the block runs, in all threads."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as found:
        yield
    counts.append(sum(event.name.startswith("aten::") for event in found.events() or ()))
