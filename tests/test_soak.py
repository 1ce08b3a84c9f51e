"""Sixty runs in one process: neither memory nor files, threads or processes pile up."""

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tl_lightning.check import check

RUNS, SETTLED = 60, 10
Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]


class Held(NamedTuple):
    """What a process holds: resident bytes, open files, threads, children."""

    memory: int
    files: int
    threads: int
    children: int


def held() -> Held:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    children = sum(len(path.read_text().split()) for path in Path("/proc/self/task").glob("*/children"))
    files = len(list(Path("/proc/self/fd").iterdir()))
    return Held(pages * os.sysconf("SC_PAGE_SIZE"), files, threading.active_count(), children)


def soak(stored: str, folder: str) -> None:
    """The runs, in the process of this call; prints what it holds after each."""
    from tl_lightning import bootstrap
    from tl_lightning.run import run

    bootstrap.FEWEST = bootstrap.RESAMPLES = 5
    config, found = json.loads(Path(stored).read_text()), []
    for seed in range(RUNS):
        run({**config, "seed": seed}, Path(folder) / str(seed))
        found.append(held())
    print(json.dumps(found))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells what a process holds")
def test_sixty_runs_in_one_process(tiny: Tiny, compose: Compose, tmp_path: Path) -> None:
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(48)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={tmp_path / 'all.csv'}"),
        *("trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=2", "trainer.enable_progress_bar=false"),
        *("data.batch_size=8", "data.num_workers=1", "logger=csv", "name=soak"),
    ]
    (tmp_path / "config.json").write_text(json.dumps(check(compose(*words))))
    code = "import sys; from tests.test_soak import soak; soak(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "config.json"), str(tmp_path / "runs")],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [Held(*one) for one in json.loads(done.stdout.splitlines()[-1])]
    assert len(found) == RUNS
    settled, last = found[SETTLED - 1], found[-1]
    assert last.memory <= 1.1 * settled.memory, [one.memory >> 20 for one in found]
    assert last[1:] == settled[1:], [one[1:] for one in found]
    assert last.children == 0
    print(f"{settled.memory >> 20} MB after {SETTLED} runs, {last.memory >> 20} MB after {RUNS}")
