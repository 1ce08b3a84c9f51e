"""A grid that is started again: what is done is not done twice, what was interrupted goes on."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from tl_lightning.identity import identity
from tl_lightning.record import RECORD, read_record, write_json

Multirun = Callable[..., int]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")


def _runs(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The record of each run, by study and job."""
    found = sorted(tmp_path.glob(f"outputs/multirun/mini/*/*/{RECORD}"))
    return {f"{path.parent.parent.name}/{path.parent.name}": read_record(path.parent) for path in found}


def _table(text: str) -> list[list[str]]:
    return [re.split(r"  +", line) for line in text.splitlines() if re.match(r"\d+ +seed=", line)]


@pytest.mark.slow
def test_the_same_command_goes_on_and_another_one_takes_what_is_there(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multirun("seed=0,1") == 0
    first = _runs(tmp_path)
    assert [record["status"] for record in first.values()] == ["finished"] * 2
    (study,) = {name.split("/")[0] for name in first}
    interrupted = tmp_path / "outputs/multirun/mini" / study / "1"
    write_json(interrupted / RECORD, {**read_record(interrupted), "status": "interrupted"})
    time.sleep(1.1)  # another second, another folder
    capsys.readouterr()

    assert multirun("seed=0,1", "resume=auto") == 0
    assert _runs(tmp_path).keys() == first.keys(), "no new run, and in the same study"
    resumed = read_record(interrupted)
    assert (resumed["status"], len(resumed["resumed"])) == ("finished", 1)
    table = _table(capsys.readouterr().out)
    assert [row[:3] for row in table] == [["0", "seed=0", "finished, skipped"], ["1", "seed=1", "finished"]]

    assert multirun("seed=1,2", "resume=auto") == 0
    added = _runs(tmp_path).keys() - first.keys()
    assert [name.split("/")[1] for name in added] == ["1"], "seed 2 alone, as job 1 of a study of its own"
    table = _table(capsys.readouterr().out)
    assert [row[:3] for row in table] == [["0", "seed=1", "finished, skipped"], ["1", "seed=2", "finished"]]
    assert all(len(row) >= 6 for row in table), "skipped or not, with its result"


def test_other_data_is_another_run(multirun: Multirun, tmp_path: Path) -> None:
    assert multirun("seed=0") == 0
    rows = (tmp_path / "all.csv").read_text().replace("number 7", "number seven")
    (tmp_path / "all.csv").write_text(rows)
    assert multirun("seed=0", "resume=auto") == 0
    assert [record["status"] for record in _runs(tmp_path).values()] == ["finished"] * 2
    assert len({record["data"]["fingerprint"] for record in _runs(tmp_path).values()}) == 2


def test_a_job_that_another_process_has_is_left_to_it(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multirun("seed=0,1") == 0
    (record,) = (record for record in _runs(tmp_path).values() if record["seed"] == 1)
    before = _runs(tmp_path)
    for path in tmp_path.glob(f"outputs/multirun/mini/*/1/{RECORD}"):
        write_json(path, {**record, "status": "interrupted"})
    lock = FileLock(tmp_path / "outputs/multirun/mini/.claims" / f"{record['identity']['config']}.lock")
    capsys.readouterr()
    with lock:
        assert multirun("seed=0,1", "resume=auto") == 0
    assert _runs(tmp_path).keys() == before.keys()
    assert [r["status"] for r in _runs(tmp_path).values() if r["seed"] == 1] == ["interrupted"], (
        "nobody went on with it"
    )
    assert "skipped: running" in capsys.readouterr().out


def test_what_decides_a_result(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n")
    config = {"seed": 0, "resume": None, "output_dir": "x", "data": {"train": str(tmp_path / "a.csv")}, "backbone": {}}
    own = identity(config)
    assert identity({**config, "resume": "auto", "output_dir": "y"}) == own
    assert identity({**config, "seed": 1})["config"] != own["config"]
    (tmp_path / "a.csv").write_text("text,label\na,c\n")
    assert identity(config)["files"] != own["files"]
    assert identity(config)["config"] == own["config"]
    assert identity({**config, "data": {"train": "package:nosuch/a.csv"}})["code"] == own["code"]


def test_jobs_know_their_command_and_their_study(multirun: Multirun, tmp_path: Path) -> None:
    assert multirun("seed=0", "logger=wandb") == 0
    (record,) = _runs(tmp_path).values()
    (study,) = {name.split("/")[0] for name in _runs(tmp_path)}
    assert record["wandb"]["group"] == f"mini-{study}"
    assert "resume=auto" not in json.dumps(record["overrides"])
    assert record["wandb"]["id"] in record["wandb"]["folder"]
