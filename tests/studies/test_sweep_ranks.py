"""Jobs of several processes: counted, started on their own, and failed if one of them fails."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tl_lightning import ranks
from tl_lightning.errors import UserError
from tl_lightning.record import read_record, write_json
from tl_lightning.studies import apart
from tl_lightning.studies.multirun import quoted
from tl_lightning.studies.ticket import Ticket

CPU = {"accelerator": "cpu"}


class FailsAfterFit(Callback):
    """On the second process, where the first one is done with it."""

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "test" and trainer.global_rank == 1:
            raise RuntimeError("the second process fails at its end")


@pytest.mark.parametrize(
    ("trainer", "count"),
    [
        ({"devices": 1}, 1),
        ({"devices": 2}, 2),
        ({"devices": "2"}, 2),
        ({"devices": [0, 2, 3], "accelerator": "gpu"}, 3),
        ({"devices": "0,2", "accelerator": "gpu"}, 2),
        ({"devices": "auto", **CPU}, 1),
        ({"devices": -1, **CPU}, 1),
        ({"devices": 2, "num_nodes": 2}, 4),
        ({"devices": 1, "strategy": "ddp"}, 1),
        (CPU, 1),
    ],
)
def test_processes_are_counted(trainer: dict[str, Any], count: int) -> None:
    assert ranks.processes(trainer) == count


def test_all_devices_of_a_machine_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert ranks.processes({"devices": "auto", "accelerator": "auto"}) == 4


def _started(code: str) -> SimpleNamespace:
    process = subprocess.Popen([sys.executable, "-c", code])
    return SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(procs=[process])))


def test_the_first_process_waits_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks.Others(_started("pass")).wait()
    failing = _started("raise SystemExit(3)")
    others = ranks.Others(failing)
    assert failing.strategy.launcher.procs == [], "nothing is left that Lightning's observer could kill this one for"
    with pytest.raises(RuntimeError, match="process 1 of this run failed with exit code 3"):
        others.wait()
    monkeypatch.setattr(ranks, "PATIENCE_S", 0.3)
    hanging = _started("import time; time.sleep(60)")
    (process,) = hanging.strategy.launcher.procs
    with pytest.raises(RuntimeError, match="did not end"):
        ranks.Others(hanging).wait()
    assert process.wait(10) == -signal.SIGKILL
    ranks.Others(SimpleNamespace(strategy=SimpleNamespace(launcher=None))).wait()


def test_a_job_makes_a_world_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with apart.own_world():
        assert not {"SLURM_NTASKS", "LOCAL_RANK"} & set(os.environ)
        assert os.environ["SLURM_JOB_ID"] == "7"
        os.environ["MASTER_PORT"] = "1"
    assert (os.environ["SLURM_NTASKS"], os.environ["LOCAL_RANK"]) == ("4", "0")
    assert "MASTER_PORT" not in os.environ
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(UserError, match="SLURM_STEP_NUM_TASKS=2"), apart.own_world():
        pass


def test_the_record_of_a_killed_job_says_so(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"status": "running"})
    apart._close(tmp_path, -9)
    assert read_record(tmp_path) == {"status": "failed", "error": "a process of this run ended with signal SIGKILL"}
    write_json(tmp_path / "run.json", {"status": "failed", "error": "its own"})
    apart._close(tmp_path, 1)
    assert read_record(tmp_path)["error"] == "its own"
    apart._close(tmp_path / "nothing", 1)


def test_a_ticket_is_sent_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_lightning.studies.ticket import ticket

    sent = Ticket(["a:b"], ["optimizer.lr='x y'"], "group", {"trial": 3, "pruner": None})
    monkeypatch.setenv(*next(iter(sent.environment().items())))
    assert ticket(multirun=False) == sent
    job = sent.job({"objective": {"monitor": "loss"}, "trainer": {}})
    assert (job.kind, job.group, list(job.callbacks)) == ("trial", "group", [])


@pytest.mark.parametrize("text", ["/a/b", "/with space/it's", "a\\b=c,{d}", "$x", "back\\'s", "end\\"])
def test_quoted_words_come_back(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (override,) = OverridesParser.create().parse_overrides([f"a={quoted(text)}"])
    value: Any = override.value()
    assert value == text


@pytest.fixture
def two(words: list[str], tiny: Callable[[str], Path], tmp_path: Path) -> list[str]:
    """Words for two processes, without dropout, of which each process draws its own."""
    folder = tmp_path / "bert"
    shutil.copytree(tiny("bert"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    kept = [word for word in words if not word.startswith(("trainer=", "backbone.name=", "data.batch_size="))]
    default = "trainer.enable_progress_bar=true"
    return [*kept, f"backbone.name={folder}", "trainer=ddp", "trainer.accelerator=cpu", "head.dropout=0", default]


def _command(folder: Path, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tl_lightning", *words]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=400, check=False, env={**os.environ, **env}
    )


@pytest.mark.slow
def test_two_jobs_of_two_processes_are_as_of_one(two: list[str], tmp_path: Path) -> None:
    many = ["--multirun", *two, "optimizer=sgd", "seed=0,1"]
    one = _command(tmp_path, *many, "trainer.devices=1", "data.batch_size=8", "output_dir=one")
    assert one.returncode == 0, one.stderr
    for launcher in ("basic", "submitit_local"):
        parallel = ["trainer.devices=2", "data.batch_size=4", f"output_dir={launcher}", f"hydra/launcher={launcher}"]
        done = _command(tmp_path, *many, *parallel)
        assert done.returncode == 0, done.stderr
        for job in ("0", "1"):
            (single,), (double,) = (list(tmp_path.glob(f"{side}/multirun/mini/*/{job}")) for side in ("one", launcher))
            record = read_record(double)
            assert (record["device"], record["status"]) == ("2 x cpu", "finished")
            assert f"seed={job}" in record["overrides"]
            assert "--multirun" in record["command"]
            metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (single, double)]
            assert metrics[1] == pytest.approx(metrics[0], abs=1e-4)
        assert len(list(tmp_path.glob(f"{launcher}/**/run.json"))) == 2, "no process started the multirun again"
        rows = [line.split()[:3] for line in done.stdout.splitlines() if re.match(r"\d +seed=", line)]
        assert rows == [["0", "seed=0", "finished"], ["1", "seed=1", "finished"]]


FAILING = "+callbacks.fails._target_=tests.studies.test_sweep_ranks.FailsAfterFit"


@pytest.mark.slow
@pytest.mark.parametrize("multirun", [False, True])
def test_a_failure_of_the_second_process_after_fit_is_a_failure(two: list[str], multirun: bool, tmp_path: Path) -> None:
    root = str(Path(__file__).parents[2])
    allowed = {"TL_LIGHTNING_ALLOW": "tests", "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    words = [*two, "trainer.devices=2", "data.batch_size=8", FAILING]
    done = _command(tmp_path, *(["--multirun", *words, "seed=0,1"] if multirun else words), **allowed)
    assert done.returncode == 1, done.stderr
    assert "the second process fails at its end" in done.stderr
    records = [read_record(path.parent) for path in tmp_path.rglob("run.json")]
    assert [record["status"] for record in records] == ["failed"] * (2 if multirun else 1), "the other job ran too"
    assert all("process 1 of this run failed with exit code 1" in record["error"] for record in records)


@pytest.mark.slow
def test_a_signal_reaches_the_processes_of_a_job(two: list[str], tmp_path: Path) -> None:
    words = ["--multirun", *two, "trainer.devices=2", "data.batch_size=2", "trainer.max_epochs=200", "seed=0,1"]
    with subprocess.Popen([sys.executable, "-m", "tl_lightning", *words], cwd=tmp_path) as process:
        for _ in range(2000):
            if list(tmp_path.rglob("last.ckpt")):
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 143
    (record,) = tmp_path.rglob("run.json")
    assert read_record(record.parent)["status"] == "interrupted"
