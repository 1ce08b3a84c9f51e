"""Several processes on one study, and a process that is killed: real commands."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import pytest

from tl_lightning.record import read_record

pytestmark = pytest.mark.slow
SEARCH = ["--multirun", "search=typed", "optimizer.lr=tag(log,interval(1e-4,1e-2))", "hydra.sweeper.study=shared"]
STUDY = "outputs/multirun/mini/shared"


@contextmanager
def _started(tmp_path: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tl_lightning", *words]
    with subprocess.Popen(
        command, cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ}
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _trials(tmp_path: Path) -> list[optuna.trial.FrozenTrial]:
    folder = tmp_path / STUDY
    return optuna.load_study(study_name="shared", storage=f"sqlite:///{folder / 'study.db'}").trials


def _history(tmp_path: Path) -> list[dict[str, str]]:
    with (tmp_path / STUDY / "history.csv").open() as file:
        return list(csv.DictReader(file))


def test_copies_of_a_command_share_its_trials(words: list[str], tmp_path: Path) -> None:
    command = [*SEARCH, *words, "hydra.sweeper.n_trials=7"]
    with _started(tmp_path, *command) as one, _started(tmp_path, *command) as other:
        told = [process.communicate(timeout=400) for process in (one, other)]
        assert [process.returncode for process in (one, other)] == [0, 0], told
    trials = _trials(tmp_path)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 7, "seven in all, not each"
    assert len({trial.user_attrs["pid"] for trial in trials}) == 2
    assert len({trial.params["++optimizer.lr"] for trial in trials}) == 7, "no draw twice"
    assert [row["state"] for row in _history(tmp_path)] == ["complete"] * 7


def test_a_killed_search_goes_on_with_its_trial(words: list[str], tmp_path: Path) -> None:
    command = [*SEARCH, *words, "hydra.sweeper.n_trials=2", "trainer.max_epochs=30", "data.batch_size=2"]
    with _started(tmp_path, *command) as process:
        for _ in range(4000):
            if list(tmp_path.glob(f"{STUDY}/*/checkpoints/last.ckpt")):
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    (left,) = (path.parent.parent for path in tmp_path.glob(f"{STUDY}/*/checkpoints/last.ckpt"))
    assert read_record(left)["status"] == "running"
    with _started(tmp_path, *command) as process:
        told = process.communicate(timeout=400)
        assert process.returncode == 0, told
    trials = _trials(tmp_path)
    assert [trial.state.name for trial in trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert trials[1].params == trials[0].params
    record = read_record(left)
    assert (record["status"], len(record["resumed"])) == ("finished", 1)
    with (left / "metrics.csv").open() as file:
        epochs = [row["step"] for row in csv.DictReader(file) if row["name"] == "val/loss"]
    assert len(epochs) == len(set(epochs)) == 30, "from its last checkpoint, not anew"
    assert len(_history(tmp_path)) == 2


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_failed_job_elsewhere_does_not_end_the_others(words: list[str], launcher: str, tmp_path: Path) -> None:
    command = ["--multirun", *words, f"hydra/launcher={launcher}", "data.label=label,nosuch"]
    with _started(tmp_path, *command) as process:
        out, err = process.communicate(timeout=400)
    assert process.returncode == 2, err
    assert "Traceback" not in err
    found = {path.parent.name: read_record(path.parent)["status"] for path in tmp_path.glob("outputs/**/run.json")}
    assert found == {"0": "finished"}
    assert "data.label=nosuch" in out
    if launcher == "joblib":
        with _started(tmp_path, *command, "resume=auto") as process:
            out, err = process.communicate(timeout=400)
        assert process.returncode == 2, err
        table = [line.split("  ")[0] + line[-60:] for line in out.splitlines() if re.match(r"\d +data.label=", line)]
        assert [("skipped" in line, "failed" in line) for line in table] == [(True, False), (False, True)]
