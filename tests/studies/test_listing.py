"""`runs`: what it lists and how fast it finds it again."""

import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tl_lightning import record as record_module
from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, write_json
from tl_lightning.recorded import STATUSES
from tl_lightning.studies import index
from tl_lightning.studies.index import Row
from tl_lightning.studies.listing import main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path / "cache"))


def _record(number: int, **facts: Any) -> dict[str, Any]:
    strategy = ("full", "lora", "linear_probe")[number % 3]
    return {
        "status": "finished",
        "name": "bert_sst2" if number % 2 else "quickstart",
        "seed": number % 5,
        "overrides": [f"strategy={strategy}", f"seed={number % 5}", "logger=csv"],
        "choices": {"strategy": strategy, "data": "reviews", "backbone": "small", "head": "linear", "average": None},
        "started": f"2026-{1 + number % 12:02d}-{1 + number % 28:02d}T12:00:00+0000",
        "metrics": {"val/accuracy": 0.5, "test/accuracy": number / 10_000, "test/loss": 1 - number / 10_000},
        "selected_by": "val/accuracy",
        "durations": {"total": 10.0},
        **facts,
    }


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    for number in range(12):
        folder = tmp_path / "outputs" / f"name{number % 2}" / str(number)
        folder.mkdir(parents=True)
        write_json(folder / RECORD, _record(number))
    return tmp_path / "outputs"


def _edit(path: Path, **facts: Any) -> None:
    write_json(path, json.loads(path.read_text()) | facts)


def _listed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[list[str], str]:
    """The run directories listed, and the last line."""
    main(words)
    heading, *lines, _, count = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["started", "status", "run"]
    return [found.group() for line in lines if (found := re.search(r"name\d/\d+", line))], count


def test_the_newest_come_first_and_are_counted(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, count = _listed(capsys, f"dir={outputs}", "limit=3")
    assert found == ["name1/11", "name0/10", "name1/9"]
    assert count == f"3 of 12 runs (12 finished)  {outputs}"
    assert len(_listed(capsys, str(outputs), "limit=0")[0]) == 12


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        (["strategy=lora"], [1, 4, 7, 10]),
        (["strategy=lora,full", "seed=0"], [0, 10]),
        (["name=bert_*", "strategy=lora"], [1, 7]),
        (["since=2026-10"], [9, 10, 11]),
        (["until=2026-02-02"], [0, 1]),
        (["since=2026-03-03", "until=2026-03"], [2]),
        (["status=failed"], []),
        (["status=finished,failed", "average=ema"], []),
    ],
)
def test_filters(words: list[str], numbers: list[int], outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(outputs / "name1" / "11" / RECORD, choices={"strategy": "linear_probe", "average": "swa"})
    found, _ = _listed(capsys, f"dir={outputs}", *words)
    assert sorted(int(place.partition("/")[2]) for place in found) == numbers


def test_sorted_by_a_metric_the_best_come_first(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _edit(outputs / "name1" / "11" / RECORD, metrics={"test/accuracy": None})
    for words in (["sort=test/accuracy"], ["sort=accuracy"], ["sort=test/loss"]):
        found, _ = _listed(capsys, f"dir={outputs}", *words)
        assert found[:2] == ["name0/10", "name1/9"]
        assert found[-1] == "name1/11"


def test_states_are_told_apart(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    here = socket.gethostname()
    places = [outputs / f"name{number % 2}" / str(number) / RECORD for number in range(6)]
    _edit(places[0], status="running", process={"host": here, "pid": dead.pid})
    _edit(places[1], status="running", process={"host": here, "pid": os.getppid()})
    _edit(places[2], status="running", process={"host": "elsewhere", "pid": 1})
    _edit(places[3], status="failed", error="ValueError: a bug\nmore")
    places[4].write_text("")
    _edit(places[5], status="interrupted")
    main([f"dir={outputs}"])
    said = capsys.readouterr().out
    assert re.search(r"\bdied +name0/0\b", said)
    assert re.search(r"\brunning +name1/1\b", said)
    assert re.search(r"\brunning on elsewhere +name0/2\b", said)
    assert re.search(r"\bfailed +name1/3\b.*ValueError: a bug\n", said)
    assert re.search(r"\bunreadable +name0/4\b", said)
    assert "6 finished, 2 running, 1 interrupted, 1 failed, 1 died, 1 unreadable" in said
    assert _listed(capsys, f"dir={outputs}", "status=died")[0] == ["name0/0"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["strateg=lora"], "there is no strateg; did you mean strategy?"),
        (["sort=test/acuracy"], "no run here has this metric; there are: test/accuracy, test/loss, val/accuracy"),
        (["since=yesterday"], "a date is expected, such as since=2026-01-31"),
        (["status=finshed"], "one of finished, running"),
        (["limit=few"], "a number is expected"),
        (["dir=nowhere"], "there is no such folder"),
        (["elsewhere", "dir=nowhere"], "lists one folder"),
    ],
)
def test_bad_words(words: list[str], said: str, outputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(outputs.parent)
    with pytest.raises(UserError, match=re.escape(said)):
        main(words)


def test_a_folder_without_runs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in here"):
        main([f"dir={tmp_path}"])


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The run directories whose record is read."""
    folders: list[Path] = []

    def read(folder: Path) -> dict[str, Any]:
        folders.append(folder)
        return record_module.read_record(folder)

    monkeypatch.setattr(index, "read_record", read)
    return folders


def test_records_are_read_once_and_again_when_they_change(outputs: Path, opened: list[Path]) -> None:
    first = index.rows(outputs)
    assert len(opened) == 12
    assert index.rows(outputs) == first
    assert len(opened) == 12
    _edit(outputs / "name0" / "2" / RECORD, status="failed")
    (outputs / "name0" / "4" / RECORD).unlink()
    again = index.rows(outputs)
    assert opened[12:] == [outputs / "name0" / "2"]
    assert again["name0/2"].status == "failed"
    assert "name0/4" not in again


ROW = '{"version": 2, "rows": {"name0/0": {"stamp": [1, 2], "status": "finished", %s}}}'


@pytest.mark.parametrize(
    "damage",
    [
        *("", "{", "[" * 100_000, '{"version": 2}', '{"version": 1, "rows": {}}', '{"version": 2, "rows": [1]}'),
        '{"version": 2, "rows": {"name0/0": 3}}',
        '{"version": 2, "rows": {"name0/0": {"stamp": [1, 2], "status": "bought"}}}',
        *(ROW % odd for odd in ('"metrics": {"a": "b"}', '"metrics": {"a": 1e999}', '"words": {"a": 1}', '"more": 1')),
        *(ROW % odd for odd in ('"started": "then"', '"process": "x"', '"typed": [1]', '"selected_by": 1')),
    ],
)
def test_a_damaged_index_is_built_anew(damage: str, outputs: Path, opened: list[Path]) -> None:
    first = index.rows(outputs)
    path = index.index_path(outputs)
    path.write_text(damage)
    assert index.rows(outputs) == first
    assert len(opened) == 24
    assert {place: Row(**row) for place, row in json.loads(path.read_text())["rows"].items()} == first


def test_a_cache_that_cannot_be_written_and_a_folder_that_is_read_only(
    outputs: Path, tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(path for path in outputs.rglob("*"))
    index.rows(outputs)
    assert sorted(path for path in outputs.rglob("*")) == before, "nothing is written among the runs"
    (tmp_path / "taken").touch()
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path / "taken"))
    assert len(index.rows(outputs)) == len(index.rows(outputs)) == 12
    assert len(opened) == 36


def test_the_command(outputs: Path, command_line: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    done = command_line("runs", "sort=accuracy", "limit=1")
    assert done.returncode == 0, done.stderr
    assert "name1/11" in done.stdout
    assert "strategy=linear_probe" in done.stdout
    wrong = command_line("runs", "strateg=lora")
    assert (wrong.returncode, "did you mean strategy" in wrong.stderr) == (2, True)
    assert "Traceback" not in wrong.stderr


@pytest.mark.slow
def test_ten_thousand_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = {n: json.dumps(_record(n), indent=2) for n in range(10_000)}
    for number, content in text.items():
        folder = tmp_path / "outputs" / f"name{number % 50}" / str(number)
        folder.mkdir(parents=True)
        (folder / RECORD).write_text(content)
        (folder / "checkpoints").mkdir()
    monkeypatch.chdir(tmp_path)
    for call in range(2):
        start = time.perf_counter()
        main(["sort=test/accuracy"])
        seconds = time.perf_counter() - start
        assert "30 of 10,000 runs (10,000 finished)" in capsys.readouterr().out
        assert len(opened) == 10_000, "read at the first call alone"
        assert seconds < 60, f"call {call}: 3 s are meant, on a quiet machine"
        with capsys.disabled():
            print(f"\n10,000 runs, call {call}: {seconds:.1f} s")


def test_runs_of_several_time_zones_are_in_the_order_of_their_moments(
    outputs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a text, 11:00+0200 comes after 10:00+0000; it is an hour before."""
    moments = {"name0/0": "2027-01-01T11:00:00+0200", "name1/1": "2027-01-01T10:00:00+0000",
               "name0/2": "2027-01-01T05:30:00-0500", "name1/3": "2027-01-01T10:45:00Z"}  # fmt: skip
    for place, moment in moments.items():
        _edit(outputs / place / RECORD, started=moment)
    order = ["name1/3", "name0/2", "name1/1", "name0/0"]
    assert _listed(capsys, f"dir={outputs}", "limit=4")[0] == order
    monkeypatch.setenv("TZ", "Etc/GMT-3")  # three hours ahead
    time.tzset()
    try:
        main([f"dir={outputs}", "limit=4"])
        lines = capsys.readouterr().out.splitlines()[1:5]
        assert [line[:16] for line in lines] == [f"2027-01-01 {at}" for at in ("13:45", "13:30", "13:00", "12:00")]
        for words, wanted in (
            (["since=2027-01-01T13"], order[:3]),
            (["since=2027-01-01T13:00:01"], order[:2]),
            (["since=2027", "until=2027-01-01T13:30"], None),
            (["since=2027-01", "until=2027-01-01T13:30"], order[1:]),
            (["since=2027-01-01", "until=2027-01-01T12"], order[3:]),
            (["since=2027-01-02"], []),
        ):
            if wanted is None:
                with pytest.raises(UserError, match="a date is expected"):
                    main([f"dir={outputs}", *words])
            else:
                assert _listed(capsys, f"dir={outputs}", *words)[0] == wanted, words
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("date", ["2026-13", "2026-02-30", "2026-01-31T25", "9999-12", "٢٠٢٦-01"])
def test_a_date_that_there_is_not(date: str, outputs: Path) -> None:
    with pytest.raises(UserError, match="a date is expected"):
        main([f"dir={outputs}", f"until={date}"])


def test_every_status_can_be_asked_for(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, status in enumerate(STATUSES):
        _edit(outputs / f"name{number % 2}" / str(number) / RECORD, status=status, process={"host": "elsewhere"})
    for number, status in enumerate(STATUSES):
        if status != "finished":
            assert _listed(capsys, f"dir={outputs}", f"status={status}")[0] == [f"name{number % 2}/{number}"]
    assert "1 pruned" in _listed(capsys, f"dir={outputs}")[1]


@pytest.mark.parametrize(
    ("asked", "numbers"),
    [
        ("optimizer.lr=1e-3", [0, 1]),
        ("optimizer.lr=0.001", [0, 1]),
        ("optimizer.lr=1.0e-3,2", [0, 1, 2]),
        ("data.crop_scale=[0.8,1]", [3, 4]),
        ("data.crop_scale=[0.8, 1.0]", [3, 4]),
        ("compile=True", [5, 6]),
        ("data.train=1e3.csv", [7]),
    ],
)
def test_a_value_is_found_however_it_was_typed(
    asked: str, numbers: list[int], outputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["optimizer.lr=1e-3", "optimizer.lr=0.001", "optimizer.lr=2.0", "data.crop_scale=[0.8,1]",
             "data.crop_scale=[0.80,1.0]", "compile=true", "compile=True", "data.train=1e3.csv"]  # fmt: skip
    for number, word in enumerate(typed):
        _edit(outputs / f"name{number % 2}" / str(number) / RECORD, overrides=[word])
    found, _ = _listed(capsys, f"dir={outputs}", asked)
    assert sorted(int(place.partition("/")[2]) for place in found) == numbers


def test_folders_whose_names_are_no_text_or_no_numbers(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"\xff\xfe", "²".encode(), b"-x", b"a\\b"):
        folder = os.path.join(os.fsencode(outputs), name)
        os.mkdir(folder)
        (outputs / os.fsdecode(name) / RECORD).write_text(json.dumps(_record(0)))
    for _ in range(2):
        main([f"dir={outputs}", "limit=0"])
        said = capsys.readouterr().out
        assert said.encode().count(b"udcff") == 1
        assert "16 of 16 runs (16 finished)" in said
