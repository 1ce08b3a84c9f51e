"""What comes after the test fails, or a signal comes: the results stand, and the record says the rest."""

import errno
import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.test_to_the_end import Configured, configured
from tl_lightning import after, bootstrap, predictions, ranks, report, slurm, soup, wandb_results, wandb_run
from tl_lightning import run as running
from tl_lightning.interrupt import Interrupted
from tl_lightning.job import Job
from tl_lightning.norms import refresh
from tl_lightning.record import Record, read_record
from tl_lightning.run import run
from tl_lightning.throughput import Throughput

__all__ = ["configured"]  # a fixture
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec")
STEPS = ("intervals", "merge", "tracker", "cleaning", "report")
LORA = ("strategy=lora", "strategy.r=2", "strategy.merge=true")
# step -> what to break for it
PLACES: dict[str, tuple[Any, str]] = {
    "intervals": (running, "intervals"),
    "merge": (running, "write_merged"),
    "tracker": (wandb_results, "log_test"),
    "cleaning": (running, "PREVIOUS"),
    "report": (report, "result_table"),
    "measurements": (Throughput, "record"),
}


def _fails(*_: Any, **__: Any) -> Any:
    raise ValueError("broken on purpose")


def _results(folder: Path) -> dict[str, Any]:
    """The record of a run whose results stand."""
    record, metrics = read_record(folder), json.loads((folder / "metrics.json").read_text())
    assert record["status"] == "finished"
    assert record["metrics"] == metrics
    assert "test/loss" in metrics
    assert pq.read_table(folder / "predictions.parquet").num_rows == record["data"]["rows"]["test"]
    return record


@pytest.mark.parametrize("step", PLACES)
def test_a_step_after_the_test_that_fails_is_a_line_of_the_record_and_a_warning(
    step: str,
    configured: Configured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    owner, name = PLACES[step]
    monkeypatch.setattr(owner, name, object() if name == "PREVIOUS" else _fails)
    value = run(configured("norm", *LORA, "trainer.max_epochs=2"), tmp_path / "run")
    record = _results(tmp_path / "run")
    told = "TypeError: unsupported operand" if step == "cleaning" else "ValueError: broken on purpose"
    assert record["after"].keys() == {step}
    assert record["after"][step].startswith(told)
    assert value == record["metrics"]["val/loss"]
    (warning,) = (found for found in caplog.records if found.getMessage().startswith(f"{step} failed ({told}"))
    assert warning.levelno == logging.WARNING
    assert warning.exc_info, "a fault of ours, with its traceback"
    assert ("run directory" in capsys.readouterr().out) is (step != "report")
    assert bool(record.get("intervals")) is (step != "intervals"), "the other steps are done"
    assert (tmp_path / "run/checkpoints/merged.safetensors").exists() is (step != "merge")


def test_a_full_disk_is_told_without_a_traceback(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "merged.safetensors")

    monkeypatch.setattr(running, "write_merged", full)
    run(configured("norm", *LORA, "trainer.max_epochs=1"), tmp_path / "run")
    assert _results(tmp_path / "run")["after"].keys() == {"merge"}
    (warning,) = (found for found in caplog.records if found.getMessage().startswith("merge failed"))
    assert "No space left on device" in warning.getMessage()
    assert not warning.exc_info


def test_the_record_stands_as_soon_as_the_test_is_done_and_says_what_is_to_come(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Any]] = []
    original = bootstrap.intervals

    def spy(*args: Any) -> Any:
        seen.append(_results(tmp_path / "run"))
        return original(*args)

    monkeypatch.setattr(running, "intervals", spy)
    run(configured("norm", *LORA, "trainer.max_epochs=1"), tmp_path / "run")
    assert seen[0]["after"] == dict.fromkeys(STEPS, after.NOT_DONE)
    assert read_record(tmp_path / "run")["after"] is None


def test_a_record_that_cannot_be_written_again_costs_nothing(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add = Record.add

    def full(self: Record, **facts: Any) -> None:
        if self.content["status"] == "finished":
            raise OSError(errno.ENOSPC, "No space left on device")
        add(self, **facts)

    monkeypatch.setattr(Record, "add", full)
    run(configured("norm", "trainer.max_epochs=1"), tmp_path / "run")
    assert _results(tmp_path / "run")["after"].keys() == set(STEPS) - {"merge"}
    assert "does not tell all that was done" in caplog.text


# --- averages that cannot be made


def _of_garbage(paths: Any) -> Any:
    raise RuntimeError("PytorchStreamReader failed reading zip archive")


def _in_mid_measuring(trainer: Any, task: Any, batches: int) -> None:
    refresh(trainer, task, 1)
    raise RuntimeError("out of luck")


@pytest.mark.parametrize("average", ["soup", "greedy_soup"])
@pytest.mark.parametrize(
    ("name", "breaking"), [("mean", _of_garbage), ("refresh", _in_mid_measuring)], ids=["read", "measure"]
)
def test_the_best_checkpoint_is_tested_where_its_soup_cannot_be_made(
    average: str,
    name: str,
    breaking: Any,
    configured: Configured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run(configured("norm", "trainer.max_epochs=2"), tmp_path / "plain")
    monkeypatch.setattr(soup, name, breaking)
    run(configured("norm", "trainer.max_epochs=2", f"average={average}"), tmp_path / "run")
    record, plain = _results(tmp_path / "run"), _results(tmp_path / "plain")
    assert record["metrics"] == plain["metrics"]
    assert (record["average"]["method"], record["average"]["made"]) == (average, False)
    assert record["after"].keys() == {"average"}
    assert "average failed" in caplog.text
    assert "it was not made, and the best checkpoint is tested" in caplog.text
    assert {path.name for path in (tmp_path / "run/checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_without_a_best_checkpoint_the_last_weights_are_tested_as_they_were(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("norm", "trainer.max_epochs=2", "~callbacks.best")
    run(configured(*words), tmp_path / "plain")
    monkeypatch.setattr(soup, "refresh", _in_mid_measuring)
    run(configured(*words, "average=soup"), tmp_path / "run")
    assert _results(tmp_path / "run")["metrics"] == _results(tmp_path / "plain")["metrics"]


def test_what_one_process_cannot_do_fails_on_all_of_them() -> None:
    class Two:
        """The strategy of this process, beside one that fails, or does not."""

        def __init__(self, other: bool) -> None:
            self.strategy, self.other = self, other

        def reduce_boolean_decision(self, decision: bool, all: bool) -> bool:  # noqa: A002
            assert all is False
            return decision or self.other

    assert ranks.together(Two(False), lambda: 3) == 3
    with pytest.raises(ranks.SharedError, match="another process of this run could not do it"):
        ranks.together(Two(True), lambda: 3)
    with pytest.raises(ranks.SharedError, match="ValueError: broken on purpose"):
        ranks.together(Two(False), _fails)


# --- signals once the test is done


def _signalling(original: Callable[..., Any], *signums: int) -> Callable[..., Any]:
    def signalling(*args: Any, **kwargs: Any) -> Any:
        for signum in signums:
            os.kill(os.getpid(), signum)
        return original(*args, **kwargs)

    return signalling


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    ("owner", "name", "undone"),
    [
        pytest.param(predictions, "write", STEPS, id="while the results are written"),
        pytest.param(running, "intervals", STEPS, id="intervals"),
        pytest.param(running, "write_merged", STEPS[1:], id="merge"),
        pytest.param(wandb_results, "log_test", STEPS[2:], id="tracker"),
        pytest.param(report, "farewell", STEPS[4:], id="report"),
        pytest.param(wandb_run, "finish", (), id="when the tracker ends"),
    ],
)
def test_a_signal_after_the_test_leaves_a_finished_run(
    owner: Any,
    name: str,
    undone: tuple[str, ...],
    signum: int,
    configured: Configured,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, _signalling(getattr(owner, name), signum))
    with pytest.raises(Interrupted) as caught:
        run(configured("norm", *LORA, "trainer.max_epochs=1"), tmp_path / "run")
    assert (caught.value.signum, caught.value.exit_code) == (signum, 128 + signum)
    assert caught.value.how == f"the run is finished, and its results are in {tmp_path / 'run'}"
    assert (_results(tmp_path / "run")["after"] or {}).keys() == set(undone)


def test_a_second_signal_while_the_results_are_written_ends_at_once_and_the_run_goes_on(
    configured: Configured, tmp_path: Path
) -> None:
    config, folder = configured("norm", "trainer.max_epochs=1"), tmp_path / "mini/run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "write", _signalling(predictions.write, signal.SIGTERM, signal.SIGTERM))
        with pytest.raises(Interrupted) as caught:
            run(config, folder)
    assert caught.value.how == "the same command with resume=auto goes on"
    assert read_record(folder)["status"] == "interrupted"
    assert not (folder / "metrics.json").exists()
    run({**config, "resume": str(folder)}, tmp_path / "unused")
    assert _results(folder)["after"] is None


def test_slurm_s_signal_after_the_test_puts_no_finished_run_back_into_the_queue(
    configured: Configured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(slurm, "requeue", lambda: asked.append(True))
    monkeypatch.setattr(running, "intervals", _signalling(bootstrap.intervals, slurm.SIGNAL))
    monkeypatch.setattr(slurm, "signals", lambda: (slurm.SIGNAL,))
    config = configured("norm", "trainer.max_epochs=1")
    with pytest.raises(Interrupted) as caught:
        run(config, tmp_path / "run")
    assert caught.value.exit_code == 138
    assert not asked
    assert _results(tmp_path / "run")
    with pytest.raises(Interrupted) as caught:
        run(config, tmp_path / "job", job=Job("job", "study"))
    assert "resume=auto goes on with the other jobs" in caught.value.how
    assert asked == [True], "of a multirun jobs may be left"


@pytest.mark.parametrize("place", ["refresh", "mean"])
def test_a_signal_while_a_soup_is_made_is_an_interruption_that_goes_on(
    place: str, configured: Configured, tmp_path: Path
) -> None:
    """In a validation by itself the signal waits for the next batch; Lightning's own handler would talk to ranks."""
    config = configured("norm", "trainer.max_epochs=2", "average=soup")
    run(config, tmp_path / "mini/straight")
    folder = tmp_path / "mini/stopped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(soup, place, _signalling(getattr(soup, place), signal.SIGTERM))
        with pytest.raises(Interrupted) as caught:
            run(config, folder)
    assert "resume=auto goes on" in caught.value.how
    assert read_record(folder)["status"] == "interrupted"
    run({**config, "resume": str(folder)}, tmp_path / "unused")
    assert _results(folder)["metrics"] == _results(tmp_path / "mini/straight")["metrics"]
    assert read_record(folder)["average"] == read_record(tmp_path / "mini/straight")["average"]
