"""What lies beside runs and is not as it should be: told in one line, and never waited for."""

import os
from pathlib import Path
from typing import Any

import pytest

from tl_lightning import meeting as meetings
from tl_lightning import resume
from tl_lightning.errors import UserError
from tl_lightning.meeting import Meeting
from tl_lightning.resume import refuse_links, resumed_run
from tl_lightning.studies.storage import opened
from tl_lightning.studies.ticket import TICKET, ticket
from tl_lightning.sync import _upload, offline_runs
from tl_lightning.tracking import Curves

DEEP = "[" * 100_000


@pytest.mark.parametrize("content", [DEEP, "{}", "[1, true]", '["a"]', '["a", "b"]', "", "null", "[NaN, true]"])
def test_a_meeting_that_names_no_run_directory(content: str, tmp_path: Path) -> None:
    (tmp_path / "meeting").write_text(content)
    with pytest.raises(UserError, match="meeting"):
        Meeting(tmp_path / "meeting").told()


def test_a_pipe_in_place_of_a_meeting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "meeting")
    with pytest.raises(UserError, match="is a pipe"):
        Meeting(tmp_path / "meeting").told()
    monkeypatch.setattr(meetings, "WAIT_S", 0.1)
    monkeypatch.setattr(meetings, "LOOK_S", 0.01)
    with pytest.raises(UserError, match="has not said"):
        Meeting(tmp_path / "nothing").told()
    Meeting(tmp_path / "sound").tell(tmp_path / "run", resumed=True)
    assert Meeting(tmp_path / "sound").told() == (tmp_path / "run", True)


@pytest.mark.parametrize("name", ["metrics.csv", "checkpoints/last.ckpt", "run.json", "wise_ft.json.tmp"])
def test_a_run_directory_with_a_pipe_is_not_resumed(name: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    refuse_links(tmp_path)
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError, match=rf"{Path(name).name} is neither a file nor a folder: not resumed"):
        refuse_links(tmp_path)


def test_a_run_directory_that_is_removed_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tmp_path / "study/gone"
    monkeypatch.setattr(resume, "_unfinished", lambda _: iter([gone]))
    assert resumed_run({"resume": "auto", "output_dir": str(tmp_path), "name": "study"}) is None
    assert f"resume=auto passes over {gone}: " in caplog.text
    assert list(resume._records([gone])) == [(gone, None)]


def test_curves_with_odd_rows_are_gone_on_with(tmp_path: Path) -> None:
    curves = Curves(tmp_path)
    for step in range(3):
        curves.log_metrics({"a": 0.5, "epoch": 0}, step)
    rows = ["x,0,a,1", "1.5,0,a,1", f"{'9' * 5000},0,a,1", "٣,0,a,1", "1,0,a", "-1,0,a,1", ",,,"]
    with curves.path.open("a") as file:
        file.write("\n".join(rows) + "\n1,0,half")
    curves.drop_from(2)
    assert curves.path.read_text().splitlines() == ["step,epoch,name,value", "0,0,a,0.5", "1,0,a,0.5"]
    curves.path.write_bytes(b"\xff" * 10 + b"\n")
    with pytest.raises(UserError, match=r"metrics\.csv cannot be read"):
        curves.drop_from(2)
    assert curves.path.read_bytes() == b"\xff" * 10 + b"\n", "it is left as it is"


@pytest.mark.parametrize("place", ["sqlite:///{}", "{}"])
def test_a_pipe_in_place_of_a_storage(place: str, tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    os.mkfifo(path)
    with pytest.raises(UserError, match=r"study\.journal is no file, as a storage is"):
        opened(place.format(path))


def test_an_offline_run_that_is_a_pipe_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "wandb/offline-run-20260131_120000-abcd1234"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "run-abcd1234.wandb")
    ((parts,),) = [offline_runs(tmp_path)]
    assert _upload(parts, 5.0) == "its .wandb is no file"


@pytest.mark.parametrize("text", [DEEP, "{}", "[]", "", '{"more": 1}'])
def test_a_ticket_that_is_none(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TICKET, text or " ")
    with pytest.raises(UserError, match=f"unset {TICKET}"):
        ticket(multirun=False)


def test_times_of_a_new_record_are_in_utc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    from tl_lightning.record import Record

    monkeypatch.setenv("TZ", "Etc/GMT-3")
    time.tzset()
    try:
        monkeypatch.setattr(time, "time", lambda: 1_800_000_000.0)
        record: dict[str, Any] = Record(tmp_path, {"name": "a"}, writes=False).content
    finally:
        monkeypatch.undo()
        time.tzset()
    assert record["started"] == "2027-01-15T08:00:00+0000"
