"""W&B refuses, answers 500 or never, from the start or in mid-run: the run does not care, and is uploaded later."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import wandb

from tests.wandb_server import StandIn
from tl_lightning import bootstrap, wandb_run
from tl_lightning.run import run
from tl_lightning.sync import main, offline_runs
from tl_lightning.throughput import Throughput

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")]
PATIENCE_S, SWITCH = 8, 6  # of init and finish; the step before which the server goes away
EPOCHS = 4
STATUS = {"refuses": None, "answers 500": 500, "never answers": 0}


@pytest.fixture
def config(tiny: Tiny, compose: Compose, tmp_path: Path) -> dict[str, Any]:
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(48)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return compose(
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={tmp_path / 'all.csv'}"),
        *("trainer=cpu", f"trainer.max_epochs={EPOCHS}", "trainer.enable_progress_bar=false", "data.batch_size=8"),
        *("trainer.precision=32-true", "trainer.log_every_n_steps=1", "logger=wandb", "name=mini"),
        *(f"output_dir={tmp_path / 'outputs'}",),
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], StandIn]]:
    started: list[StandIn] = []

    def start() -> StandIn:
        started.append(StandIn(200))
        monkeypatch.setenv("WANDB_BASE_URL", started[-1].url)
        return started[-1]

    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(wandb_run, "INIT_S", PATIENCE_S)
    monkeypatch.setattr(wandb_run, "FINISH_S", PATIENCE_S)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    wandb.teardown()  # the service of the tests before keeps their server
    yield start
    wandb.teardown()
    for one in started:
        if not one.over.is_set():
            one.end()


def _goes_away(server: StandIn, how: str) -> None:
    status = STATUS[how]
    if status is None:
        server.end()
    else:
        server.status = status


@pytest.mark.parametrize("how", STATUS)
@pytest.mark.parametrize("when", ["from the start", "in mid-run"])
def test_a_run_does_not_care_and_is_uploaded_later(
    how: str, when: str, config: dict[str, Any], server: Callable[[], StandIn], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    away = server()
    if when == "from the start":
        _goes_away(away, how)
    steps: list[float] = []
    original = Throughput.on_train_batch_start

    def clocked(self: Throughput, trainer: Any, *args: Any) -> None:
        steps.append(time.monotonic())
        if when == "in mid-run" and trainer.global_step == SWITCH:
            assert wandb_run.STARTING[0].inner, "the run stands on the server"
            assert wandb.run is not None
            assert not wandb.run.offline
            _goes_away(away, how)
            steps.append(time.monotonic())
        original(self, trainer, *args)

    monkeypatch.setattr(Throughput, "on_train_batch_start", clocked)
    folder = tmp_path / "outputs/mini/now"
    run(config, folder)
    assert time.monotonic() - steps[-1] < 2 * PATIENCE_S + 20, "it ends in time"
    gaps = [b - a for at, (a, b) in enumerate(pairwise(steps)) if at != SWITCH]
    assert max(gaps) < PATIENCE_S / 2, "no step waits"
    monkeypatch.undo()
    run({**config, "logger": {**config["logger"], "_target_": "tl_lightning.tracking.csv_only"}}, tmp_path / "csv")
    assert (folder / "metrics.json").read_text() == (tmp_path / "csv/metrics.json").read_text()
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    taking = StandIn(200)
    monkeypatch.setenv("WANDB_BASE_URL", taking.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert len(offline_runs(tmp_path / "outputs")) == 1
    main([f"dir={tmp_path / 'outputs'}", "timeout=300"])
    assert "1 of 1 runs uploaded" in capsys.readouterr().out
    sent = [row["train/loss"] for row in taking.history.values() if "train/loss" in row]
    assert len(sent) == json.loads((folder / "run.json").read_text())["steps"] > EPOCHS, "every step of the curve"
    assert offline_runs(tmp_path / "outputs") == []
    taking.end()
    assert os.environ["WANDB_MODE"] == "offline", "as for the tests beside this one"


def test_a_run_goes_on_where_the_service_of_wandb_dies(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed for memory, say: its curves are lost from there on, the training is not."""
    original = Throughput.on_train_batch_start

    def killing(self: Throughput, trainer: Any, *args: Any) -> None:
        if trainer.global_step == SWITCH:
            assert wandb_run.STARTING[0].inner
            children = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
            named = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pids in children for pid in pids}
            services = [pid for pid, command in named.items() if "wandb-core" in command]
            assert services
            for pid in services:
                os.kill(pid, signal.SIGKILL)
        original(self, trainer, *args)

    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setattr(Throughput, "on_train_batch_start", killing)
    wandb.teardown()
    folder = tmp_path / "outputs/mini/now"
    run(config, folder)
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["wandb"]["id"]
    assert "the run goes on without" in caplog.text
    assert len((folder / "metrics.csv").read_text().split()) > 20
