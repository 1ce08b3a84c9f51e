"""W&B offline, through the real client; and the curves."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from tests.wandb_server import StandIn
from tl_lightning import tracking, wandb_key, wandb_run
from tl_lightning.run import run

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")


@pytest.fixture(autouse=True)
def _no_run_left() -> Iterator[None]:
    yield
    wandb_run.finish()


def test_a_key_without_a_server_keeps_the_run_offline_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as taken:  # bound but not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        monkeypatch.delenv("WANDB_MODE")
        _, logger = tracking.wandb(tmp_path, "a", "g", [], {})
    assert isinstance(logger, wandb_run.InBackground)
    assert logger.facts()["url"] is None
    assert wandb.run is not None
    assert wandb.run.offline
    assert "does not answer" in caplog.text


def test_without_a_key_no_server_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb_key, "urlopen", lambda *_, **__: pytest.fail("asked a server"))
    assert not wandb_run.reachable()


@pytest.mark.parametrize("status", [200, 401, 500])
def test_a_server_that_answers_anything_is_reachable(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server = StandIn(status)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_run.reachable()
    server.end()
    assert not wandb_run.reachable()


def test_a_server_that_takes_connections_and_never_answers_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wandb_key, "PROBE_S", 0.3)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        assert not wandb_run.reachable()


def test_no_step_waits_for_a_slow_start() -> None:
    sent: list[tuple[dict[str, float], int | None]] = []

    class Slow:
        def log_metrics(self, metrics: dict[str, float], step: int | None) -> None:
            sent.append((metrics, step))

    stands = threading.Event()

    def start() -> Any:
        stands.wait(timeout=30)
        return Slow()

    logger = wandb_run.InBackground(start)
    for step in range(3):
        logger.log_metrics({"train/loss": float(step)}, step)
    assert sent == []
    stands.set()
    assert isinstance(logger.inner, Slow)
    logger.log_metrics({"train/loss": 3.0}, 3)
    assert sent == [({"train/loss": float(step)}, step) for step in range(4)]


def _inspect(folder: Path, *words: str) -> str:
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *words, "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.fixture(scope="module")
def finished(tiny: Tiny, compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two jobs in one process, tracked offline: the record of each."""
    root = tmp_path_factory.mktemp("tracked")
    rows = [f"{'good' if i % 2 else 'bad'} film {i},{'pos' if i % 2 else 'neg'}" for i in range(60)]
    (root / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        "backbone=hf_text",
        f"backbone.name={tiny('bert')}",
        "data=text_files",
        f"data.train={root / 'all.csv'}",
        "trainer=cpu",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "logger=wandb",
        "name=tracked",
    ]
    for seed in (0, 1):
        run(compose(*words, f"seed={seed}"), root / f"run{seed}", tags=["strategy:full", "data:text_files"])
    return {str(seed): json.loads((root / f"run{seed}/run.json").read_text()) for seed in (0, 1)}


def test_each_job_is_a_run_of_its_own(finished: dict[str, Any]) -> None:
    ids = {record["wandb"]["id"] for record in finished.values()}
    assert len(ids) == 2
    assert wandb.run is None


def test_the_run_holds_name_group_tags_configuration_and_summary(finished: dict[str, Any]) -> None:
    record = finished["0"]
    text = _inspect(Path(record["wandb"]["folder"]))
    for part in ("tracked-run0", '"tracked"', "strategy:full", "text_files", "HFText", "weight_decay"):
        assert part in text, part
    summary = _inspect(Path(record["wandb"]["folder"]), "--summary")
    for name, value in record["metrics"].items():
        assert name in summary
        if name == "test/accuracy":
            assert f"{value:.6f}"[:6] in summary
    assert "test/predictions" in summary
    assert "test/confusion" in summary


def test_the_table_of_predictions_shows_the_text(finished: dict[str, Any]) -> None:
    folder = Path(finished["0"]["wandb"]["folder"])
    (table,) = (path for path in folder.rglob("*.table.json") if "predictions" in path.name)
    content = json.loads(table.read_text())
    assert content["columns"] == ["id", "target", "prediction", "p_neg", "p_pos", "loss", "text"]
    assert len(content["data"]) == finished["0"]["data"]["rows"]["test"]
    assert all("film" in row[-1] for row in content["data"])
    assert all(("good" in row[-1]) == (row[1] == "pos") for row in content["data"]), "each text beside its target"


def test_curves_drop_what_will_come_again(tmp_path: Path) -> None:
    curves = tracking.Curves(tmp_path)
    for step in range(4):
        curves.log_metrics({"train/loss": step / 2, "epoch": 0}, step)
    curves.drop_from(2)
    curves.log_metrics({"train/loss": 9.0, "epoch": 0}, 2)
    lines = (tmp_path / "metrics.csv").read_text().split()
    assert lines == ["step,epoch,name,value", "0,0,train/loss,0.0", "1,0,train/loss,0.5", "2,0,train/loss,9.0"]


def test_curves_drop_a_line_cut_at_any_byte(tmp_path: Path) -> None:
    """A process killed while it writes: half a number must not pass for a number."""
    curves = tracking.Curves(tmp_path)
    for step in range(12):
        curves.log_metrics({"train/loss": step + 0.125, "epoch": 0}, step)
    whole = curves.path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for length in range(len(whole)):
        curves.path.write_bytes(whole[:length])
        curves.drop_from(20)
        kept = curves.path.read_bytes().splitlines(keepends=True)
        assert kept == lines[: max(1, whole[:length].count(b"\n"))]
