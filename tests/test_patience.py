"""How long a run waits for a W&B server that hangs: seconds in all, counted, and nothing is lost."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
import wandb

from tests.wandb_server import StandIn
from tl_lightning import patience, tracking, wandb_key, wandb_run
from tl_lightning.patience import Patience
from tl_lightning.sync import offline_runs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of each wait, in a world in which time passes by waits alone."""
    clock = [0.0]
    waited: list[float] = []

    def ended(what: Future[None], seconds: float) -> bool:
        waited.append(seconds)
        clock[0] += seconds
        return what.done()

    monkeypatch.setattr(patience, "_ended", ended)
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    clock_of[0] = clock
    return waited


clock_of: list[list[float]] = [[]]


def _silent(seconds: float) -> bool:
    clock_of[0][0] += min(seconds, wandb_key.PROBE_S)
    return False


def test_a_server_that_never_answers_costs_the_same_few_seconds_in_all(asked: list[float]) -> None:
    one = Patience(wandb_run.END_S, _silent)
    for _ in range(4):
        assert not one.wait(Future(), 60)
    assert clock_of[0][0] < 2 * wandb_run.END_S <= 10
    assert one.left <= 0


def test_a_server_that_is_slow_but_answers_has_its_time(asked: list[float]) -> None:
    one = Patience(wandb_run.END_S, lambda _: True)
    assert not one.wait(Future(), 60)
    assert 60 <= sum(asked) < 63
    assert one.left == wandb_run.END_S


def test_what_waits_for_no_server_asks_none(asked: list[float]) -> None:
    one = Patience(wandb_run.END_S, lambda _: pytest.fail("asked"))
    assert not one.wait(Future(), 20, patience.nobody)
    done: Future[None] = Future()
    done.set_result(None)
    assert one.wait(done, 20)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    one = StandIn(200)
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_BASE_URL", one.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    wandb.teardown()
    yield one
    wandb_run.finish()
    one.end()
    wandb.teardown()


def _hang(server: StandIn) -> bool:
    server.status = 0
    return True


def _inspect(folder: Path) -> str:
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def _spent(monkeypatch: pytest.MonkeyPatch) -> Callable[[], float]:
    """Tells the seconds for which this thread has waited for the server."""
    total = [0.0]
    original = patience._ended

    def ended(what: Future[None], seconds: float) -> bool:
        start = time.monotonic()
        try:
            return original(what, seconds)
        finally:
            total[0] += time.monotonic() - start

    def answers(seconds: float) -> bool:
        start = time.monotonic()
        try:
            return wandb_key.answers(seconds)
        finally:
            if threading.current_thread() is threading.main_thread():
                total[0] += time.monotonic() - start

    monkeypatch.setattr(patience, "_ended", ended)
    monkeypatch.setattr(wandb_run, "answers", answers)
    return lambda: total[0]


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before the start", "in the start", "after the start"])
def test_a_server_that_hangs_costs_a_run_less_than_ten_seconds_and_no_curve(
    when: str, server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent = _spent(monkeypatch)
    if when == "before the start":
        server.status = 0
    elif when == "in the start":
        monkeypatch.setattr(wandb_run, "reachable", lambda: _hang(server))
    _, logger = tracking.wandb(tmp_path, "a", "g", [], {"seed": 3})
    assert isinstance(logger, wandb_run.InBackground)
    if when == "after the start":
        assert logger.inner
        assert wandb.run is not None
        assert not wandb.run.offline
        server.status = 0
    before = spent()
    for step in range(3):
        logger.log_metrics({"train/loss": step + 0.25}, step)
    logger.finalize("success")
    facts = logger.facts()
    wandb_run.finish()
    assert spent() - before < 10, "of waits; without the bound 20 to start and 60 to end"
    assert facts["folder"]
    assert wandb.run is None
    assert len(offline_runs(tmp_path)) == 1
    kept = [json.dumps("g"), "0.25", "1.25", "2.25"]
    end = time.monotonic() + 60  # its service, with which the run has parted, writes on
    while not all(value in (text := _inspect(Path(facts["folder"]))) for value in kept):
        assert time.monotonic() < end, text


def test_the_next_run_of_the_process_has_its_own_id(server: StandIn, tmp_path: Path) -> None:
    server.status = 0
    ids = []
    for number in range(2):
        _, logger = tracking.wandb(tmp_path / str(number), "a", "g", [], {})
        assert isinstance(logger, wandb_run.InBackground)
        logger.finalize("success")
        ids.append(logger.facts()["id"])
        wandb_run.finish()
    assert ids[0] != ids[1]
    assert all(ids)
