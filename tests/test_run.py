"""A whole run in miniature: what a resume, a signal, a failure and a second run leave behind."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.curves import curves
from tl_lightning import build
from tl_lightning.callbacks import Last
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted
from tl_lightning.record import RECORD, read_record
from tl_lightning.run import run

Tiny = Callable[[str], Path]
Compose = Callable[..., dict[str, Any]]
EPOCHS, STEPS = 2, 8  # 64 rows, 8 in a batch


class SignalAt(Callback):
    """Sends this process a signal at a step of a stage."""

    def __init__(self, signum: int, stage: str, step: int) -> None:
        self.signum, self.stage, self.step = signum, stage, step

    def _send(self, stage: str, step: int) -> None:
        if stage == self.stage and step == self.step:
            os.kill(os.getpid(), self.signum)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._send("train", trainer.global_step)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._send("validation", trainer.global_step)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self._send("test", trainer.global_step)


@pytest.fixture
def config(tiny: Tiny, compose: Compose, tmp_path: Path) -> dict[str, Any]:
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(96)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return compose(
        "backbone=hf_text",
        f"backbone.name={tiny('bert')}",
        "data=text_files",
        f"data.train={tmp_path / 'all.csv'}",
        "data.val_fraction=0.17",
        "data.test_fraction=0.17",
        "data.batch_size=8",
        "optimizer.lr=1e-3",
        "trainer=cpu",
        "trainer.precision=32-true",
        f"trainer.max_epochs={EPOCHS}",
        "trainer.enable_progress_bar=false",
        "logger=csv",
        "name=mini",
        f"output_dir={tmp_path}",
    )


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    loaded = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    return {**loaded["state_dict"], "steps": torch.tensor(loaded["global_step"])}


def _same_weights(straight: Path, stopped: Path) -> bool:
    one, other = _weights(straight), _weights(stopped)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("signum", "stage", "step"),
    [
        pytest.param(signal.SIGTERM, "train", 3, marks=pytest.mark.slow),
        (signal.SIGINT, "train", 3),
        pytest.param(signal.SIGTERM, "train", STEPS, marks=pytest.mark.slow),
        (signal.SIGINT, "train", STEPS + 5),
        pytest.param(signal.SIGTERM, "validation", STEPS, marks=pytest.mark.slow),
        (signal.SIGTERM, "test", 2 * STEPS),
    ],
)
def test_a_resumed_run_ends_as_the_undisturbed_one(
    config: dict[str, Any], tmp_path: Path, signum: int, stage: str, step: int
) -> None:
    straight, stopped = tmp_path / "mini/straight", tmp_path / "mini/stopped"
    run(config, straight)
    disturbed = json.loads(json.dumps(config))
    disturbed["callbacks"]["signal"] = {
        "_target_": "tests.test_run.SignalAt", "signum": int(signum), "stage": stage, "step": step,
    }  # fmt: skip
    with pytest.raises(Interrupted) as caught:
        run(disturbed, stopped)
    assert caught.value.exit_code == 128 + signum
    assert read_record(stopped)["status"] == "interrupted"
    assert not (stopped / "metrics.json").exists()
    stored = (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").write_text((straight / "config.yaml").read_text())
    assert "SignalAt" in stored
    run({**config, "resume": str(stopped)}, tmp_path / "unused")
    assert not (tmp_path / "unused").exists()
    assert _same_weights(straight, stopped)
    assert (straight / "metrics.json").read_text() == (stopped / "metrics.json").read_text()
    assert (straight / "predictions.parquet").read_bytes() == (stopped / "predictions.parquet").read_bytes()
    assert curves(straight) == curves(stopped)
    assert {"train/loss", "train/padding", "val/accuracy", "test/accuracy"} <= {name for _, name, _ in curves(straight)}


def test_last_knows_the_best_of_a_validation_in_mid_epoch(config: dict[str, Any], tmp_path: Path) -> None:
    """A process killed after such a validation must not forget what it found."""
    config["trainer"] |= {"max_epochs": 1, "val_check_interval": 0.5}
    folder = tmp_path / "mini/killed"
    seen: list[tuple[float, float]] = []
    original = Last._save

    def spy(self: Last, trainer: Trainer) -> None:
        original(self, trainer)
        states = torch.load(self.path, weights_only=True)["callbacks"]
        (best,) = (state for key, state in states.items() if "Best" in key)
        seen.append((trainer.global_step, best["step"]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Last, "_save", spy)
        run(config, folder)
    assert [step for step, _ in seen] == [STEPS // 2, STEPS]
    assert seen[0] == (STEPS // 2, STEPS // 2), "the first validation is the best so far"


def test_a_run_that_goes_on_elsewhere_keeps_its_precision(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "mini/moved"
    config["trainer"] |= {"precision": None, "max_epochs": 1}
    config["callbacks"]["signal"] = {
        "_target_": "tests.test_run.SignalAt", "signum": int(signal.SIGTERM), "stage": "train", "step": 3,
    }  # fmt: skip
    monkeypatch.setattr(build, "native_precision", lambda _: "bf16-mixed")
    with pytest.raises(Interrupted):
        run(config, folder)
    monkeypatch.setattr(build, "native_precision", lambda _: "32-true")
    run({**config, "resume": str(folder)}, tmp_path / "unused")
    assert read_record(folder)["status"] == "finished"
    assert read_record(folder)["precision"] == "bf16-mixed"


def test_the_memory_of_a_run_is_its_own() -> None:
    """Not that of the process that started it."""
    kept = bytearray(os.urandom(1 << 20) * 300)
    code = "from tl_lightning.record import peak_memory_bytes; print(peak_memory_bytes()['host'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5 << 20 < int(done.stdout) < len(kept)


@pytest.mark.slow
def test_auto_resumes_the_newest_unfinished_run_of_the_same_configuration(
    config: dict[str, Any], tmp_path: Path
) -> None:
    config["trainer"]["max_epochs"] = 1
    folder, other = tmp_path / "mini/first", tmp_path / "mini/other"
    run(config, folder)
    run({**config, "seed": 1}, other)
    for path in (folder, other):
        record = read_record(path)
        (path / RECORD).write_text(json.dumps({**record, "status": "running"}))
    run({**config, "resume": "auto"}, tmp_path / "mini/new")
    assert read_record(folder)["status"] == "finished"
    assert len(read_record(folder)["resumed"]) == 1
    assert read_record(other)["status"] == "running"
    assert not (tmp_path / "mini/new").exists()
    run({**config, "resume": "auto"}, tmp_path / "mini/new")
    assert read_record(tmp_path / "mini/new")["status"] == "finished", "nothing was left to resume"


def test_resume_refuses_what_it_cannot_mean(config: dict[str, Any], tmp_path: Path) -> None:
    config["trainer"]["max_epochs"] = 1
    folder = tmp_path / "mini/done"
    run(config, folder)
    with pytest.raises(UserError, match="is finished"):
        run({**config, "resume": str(folder)}, tmp_path / "new")
    with pytest.raises(UserError, match="holds no run"):
        run({**config, "resume": str(tmp_path)}, tmp_path / "new")
    (folder / RECORD).write_text(json.dumps({**read_record(folder), "status": "interrupted"}))
    with pytest.raises(UserError, match="seed: 0 then, 1 now"):
        run({**config, "resume": str(folder), "seed": 1}, tmp_path / "new")
    (folder / RECORD).write_text('{"status": "interru')
    with pytest.raises(UserError, match="cannot be read"):
        run({**config, "resume": str(folder)}, tmp_path / "new")


@pytest.mark.slow
def test_a_run_that_is_running_is_not_resumed(config: dict[str, Any], tmp_path: Path) -> None:
    config["trainer"]["max_epochs"] = 1
    folder = tmp_path / "mini/busy"
    run(config, folder)
    with subprocess.Popen(["sleep", "60"]) as other:
        alive = {"host": socket.gethostname(), "pid": other.pid}
        (folder / RECORD).write_text(json.dumps({**read_record(folder), "status": "running", "process": alive}))
        with pytest.raises(UserError, match=f"is running, as process {other.pid}"):
            run({**config, "resume": str(folder)}, tmp_path / "new")
        run({**config, "resume": "auto"}, tmp_path / "mini/new")
        assert read_record(tmp_path / "mini/new")["status"] == "finished", "auto starts a run of its own"
        other.kill()
    run({**config, "resume": str(folder)}, tmp_path / "unused")
    assert read_record(folder)["status"] == "finished"


@pytest.mark.slow
def test_the_same_command_gives_the_same_numbers(config: dict[str, Any], tmp_path: Path) -> None:
    config["trainer"]["max_epochs"] = 1
    for name in ("a", "b"):
        run(config, tmp_path / name)
    run({**config, "seed": 1}, tmp_path / "c")
    one, same, other = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in "abc")
    assert one == same
    assert one["test/loss"] != other["test/loss"]
    prints = [read_record(tmp_path / name)["data"]["fingerprints"]["test"] for name in "ac"]
    assert prints[0] == prints[1], "the seed moves neither test nor val"


def test_two_runs_in_one_directory_are_told_apart(config: dict[str, Any], tmp_path: Path) -> None:
    config["trainer"]["max_epochs"] = 1
    folder = tmp_path / "mini/now"
    run(config, folder)
    before = (folder / "metrics.json").read_text()
    run({**config, "seed": 1}, folder)
    assert (folder / "metrics.json").read_text() == before
    assert read_record(tmp_path / "mini/now_2")["seed"] == 1


def test_a_run_that_is_over_leaves_nothing_for_other_processes(config: dict[str, Any], tmp_path: Path) -> None:
    before = dict(os.environ)
    run(config, tmp_path / "run")
    changed = {name for name, value in os.environ.items() if before.get(name) != value}
    assert {name for name in changed if not name.startswith("PL_")} == set(), "Lightning's seeds apart"


def test_a_failure_is_recorded_and_raised(config: dict[str, Any], tmp_path: Path) -> None:
    config["data"]["max_length"] = 1  # what only the backbone knows to be too few
    with pytest.raises(UserError, match=r"data\.max_length=1: this backbone takes"):
        run(config, tmp_path / "failed")
    record = read_record(tmp_path / "failed")
    assert record["status"] == "failed"
    assert "data.max_length=1" in record["error"]


def test_the_test_split_is_not_read_before_the_fit_is_over(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tl_lightning.data import TextFiles

    seen: list[str] = []
    for split in ("train", "val", "test"):
        original = getattr(TextFiles, f"{split}_dataloader")

        def spy(self: TextFiles, split: str = split, original: Callable[[TextFiles], Any] = original) -> Any:
            seen.append(f"{split} at step {self.trainer.global_step if self.trainer else None}")
            return original(self)

        monkeypatch.setattr(TextFiles, f"{split}_dataloader", spy)
    config["trainer"]["max_epochs"] = 1
    run(config, tmp_path / "run")
    assert [what for what in seen if what.startswith("test")] == [f"test at step {STEPS}"]


def test_no_test_row_is_read_before_the_fit_is_over(
    config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever way it is asked for: a batch, its texts or its targets, by a loader or by hand."""
    from lightning.pytorch import Trainer as RealTrainer

    from tl_lightning.data import TextFiles
    from tl_lightning.data.dataset import TextDataset

    sealed: list[TextDataset] = []
    read: list[int] = []
    setup, item, test = TextFiles.setup, TextDataset.__getitem__, RealTrainer.test

    def sealing(self: TextFiles, stage: str = "") -> None:
        setup(self, stage)
        if stage != "test":  # Lightning calls it once more for the test itself
            sealed[:] = [self._parts["test"]]

    def guarded(self: TextDataset, positions: Any) -> Any:
        assert self not in sealed, "a test row was read before the end of fit"
        read.append(len(positions))
        return item(self, positions)

    def opening(self: RealTrainer, *args: Any, **kwargs: Any) -> Any:
        sealed.clear()
        return test(self, *args, **kwargs)

    monkeypatch.setattr(TextFiles, "setup", sealing)
    monkeypatch.setattr(TextDataset, "__getitem__", guarded)
    monkeypatch.setattr(RealTrainer, "test", opening)
    config["trainer"]["max_epochs"] = 1
    run(config, tmp_path / "run")
    assert sum(read) == 96, "64 to train on, 16 to select and, at the end, 16 to test"
    sealed_again = pytest.raises(AssertionError, match="before the end of fit")
    monkeypatch.setattr(
        RealTrainer, "fit", lambda self, task, datamodule, **_: next(iter(datamodule.test_dataloader()))
    )
    with sealed_again:
        run(config, tmp_path / "peeks")


def test_secrets_on_the_command_line_stay_out_of_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_lightning import record

    typed = ["python", "-m", "tl_lightning", "+experiment=x", "logger.api_key=canary", "data.max_tokens=5"]
    monkeypatch.setattr(sys, "orig_argv", typed)
    command = record._command()
    assert command == "python -m tl_lightning +experiment=x logger.api_key=*** data.max_tokens=5"


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_signal_to_the_command(config: dict[str, Any], tmp_path: Path, signum: int, code: int) -> None:
    """The real process, stopped in mid-training, then resumed by the same command with resume=auto."""
    settings = {**config, "trainer": {**config["trainer"], "max_epochs": 40}}
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "job.yaml").write_text(
        yaml.safe_dump({"defaults": ["run_config", "hydra_settings", "_self_"], **settings})
    )
    command = [
        sys.executable,
        "-m",
        "tl_lightning",
        "--config-path",
        str(folder),
        "--config-name",
        "job",
        "resume=auto",
    ]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(600):
            if list(tmp_path.glob("mini/*/checkpoints/last.ckpt")):
                break
            time.sleep(0.1)
        process.send_signal(signum)
        _, told = process.communicate(timeout=60)
    assert process.returncode == code
    killed = signum == signal.SIGKILL  # nothing can be said or saved then: the last checkpoint stands
    assert (f"Interrupted by {signal.Signals(signum).name}" in told) is not killed
    assert "Traceback" not in told
    (record,) = tmp_path.glob("mini/*/run.json")
    assert read_record(record.parent)["status"] == ("running" if killed else "interrupted")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert read_record(record.parent)["status"] == "finished"
    assert read_record(record.parent)["steps"] == 40 * STEPS
    assert list(tmp_path.glob("mini/*")) == [record.parent]
    logged = [(step, name) for step, name, _ in curves(record.parent)]
    assert len(logged) == len(set(logged)), "no step stands twice in the curves"
    losses = [int(step) for step, name in logged if name == "val/loss"]
    assert losses == list(range(STEPS - 1, 40 * STEPS, STEPS)), "and none is missing"
