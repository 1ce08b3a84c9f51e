"""What Weights & Biases is told of a job: its study, its kind, its best, and that it is still the same run."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tl_lightning import wandb_run
from tl_lightning.job import Job
from tl_lightning.record import RECORD, read_record, write_json
from tl_lightning.run import run

Compose = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")


@pytest.fixture(autouse=True)
def _no_run_left() -> Iterator[None]:
    yield
    wandb_run.finish()


def _inspect(folder: Path, *words: str) -> str:
    (file,) = folder.glob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *words, "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
def test_a_job_that_goes_on_is_the_same_run(words: list[str], compose: Compose, tmp_path: Path) -> None:
    config = compose(*words, "logger=wandb", f"output_dir={tmp_path}")
    folder, job = tmp_path / "multirun/mini/now/0", Job("job", "mini-now")
    run(config, folder, job=job)
    first = read_record(folder)
    write_json(folder / RECORD, {**first, "status": "interrupted"})
    run({**config, "resume": str(folder)}, tmp_path / "unused", job=Job("job", "mini-later"))
    again = read_record(folder)
    assert again["wandb"]["id"] == first["wandb"]["id"]
    assert again["wandb"]["group"] == "mini-now", "it stays in the study that it began in"
    parts = sorted(folder.glob("wandb/offline-run-*"))
    assert [part.name.rsplit("-", 1)[1] for part in parts] == [first["wandb"]["id"]] * 2
    text = _inspect(Path(again["wandb"]["folder"]))
    for part in ('"job"', '"mini-now"', "optimizer.lr"):
        assert part in text, part
    summary = _inspect(parts[0], "--summary")
    assert "best/val/accuracy" in summary
    assert "val/accuracy" in summary.replace("best/val/accuracy", "")


def test_a_new_run_has_an_id_before_it_ends(words: list[str], compose: Compose, tmp_path: Path) -> None:
    """A run that is killed must find its own again."""
    known: list[Any] = []
    write = write_json

    def seen(path: Path, content: Any, **how: Any) -> None:
        if path.name == RECORD and content["status"] == "running":
            known.append(content.get("wandb"))
        write(path, content, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tl_lightning.record.write_json", seen)
        run(compose(*words, "logger=wandb", f"output_dir={tmp_path}"), tmp_path / "mini/now")
    assert known[-1] == {"id": read_record(tmp_path / "mini/now")["wandb"]["id"], "group": "mini"}


def test_the_page_of_a_study_is_an_artifact(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<h1>which was better</h1>")
    wandb_run.log_study_page(tmp_path / "page.html", "mini now", "abcd1234")
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    text = _inspect(folder)
    assert "mini_now" in text
    assert '"study"' in text
    assert json.dumps("mini now") in text
