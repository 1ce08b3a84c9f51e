"""One odd run among many: it is named in one line, and the others are listed, compared and gone on with."""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.studies.fabricate import changed, write_study
from tests.studies.odd import CONFIGS, OUTCOMES, RECORDS, Change
from tl_lightning import resume
from tl_lightning.record import RECORD, write_json
from tl_lightning.resume import resumed_run
from tl_lightning.studies.compare import compare_page
from tl_lightning.studies.listing import main as list_runs
from tl_lightning.studies.multirun import summary
from tl_lightning.studies.study import study


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two strategies, two seeds each."""
    return write_study(tmp_path_factory.mktemp("good"), {"full": 1.5, "lora": 0.5}, seeds=2, n=60)


def _beside(good: Path, tmp_path: Path, odd: dict[str, Change]) -> Path:
    """The good runs, and a copy of the first one for each way of being odd."""
    root = tmp_path / "runs"
    shutil.copytree(good, root)
    for name, change in odd.items():
        shutil.copytree(good / "0", root / name)
        change(root / name)
    return root


def _naming(lines: list[str], folder: Path) -> list[str]:
    return [line for line in lines if re.search(rf"{re.escape(str(folder))}(?![\w])", line)]


def test_compare_leaves_each_odd_run_out_in_one_line(good: Path, tmp_path: Path) -> None:
    root = _beside(good, tmp_path, {**RECORDS, **CONFIGS})
    found = study([root])
    assert {run.folder.name for run in found.runs} == {"0", "1", "2", "3"}
    (one,) = found.sets
    assert {label: len(group.runs) for label, group in one.groups.items()} == {"full": 2, "lora": 2}
    for name in {*RECORDS, *CONFIGS}:
        (line,) = _naming(found.notes, root / name)
        assert line.startswith("left out: ")
        assert "\n" not in line
        assert len(line) < 600, "a line, not a page"


@pytest.mark.parametrize("name", OUTCOMES)
def test_compare_leaves_odd_predictions_out_in_one_line(name: str, good: Path, tmp_path: Path) -> None:
    root = tmp_path / "runs"
    shutil.copytree(good, root)
    OUTCOMES[name](root / "0")
    found = study([root])
    measured = [run.folder for group in found.sets[0].groups.values() for run in group.runs.values()]
    assert sorted(measured) == [root / name for name in "123"]
    (line,) = _naming(found.notes, root / "0")
    assert line.startswith("left out: ")
    assert "\n" not in line
    assert compare_page(root).exists()


def test_runs_lists_each_odd_run_in_one_line(good: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = _beside(good, tmp_path, RECORDS)
    for _ in range(2):  # read, and from the index
        list_runs([f"dir={root}", "limit=0", "sort=test/accuracy"])
        lines = capsys.readouterr().out.splitlines()
        for name in RECORDS:
            (line,) = (line for line in lines if re.search(rf" {name} ", line))
            assert "unreadable" in line
            assert re.search(r"(cannot be read|not read|too|holds|says|does not|is )", line), "and why"
        assert lines[-1].startswith(f"{len(RECORDS) + 4} of {len(RECORDS) + 4} runs (4 finished, {len(RECORDS)} unread")


def test_the_table_of_a_multirun_names_each_odd_run(good: Path, tmp_path: Path) -> None:
    root = _beside(good, tmp_path, RECORDS)
    (root / "else").mkdir()
    (root / "else" / "elsewhere.json").write_text("[" * 100_000)
    (root / "other").mkdir()
    os.mkfifo(root / "other" / "elsewhere.json")
    (root / "²").mkdir()
    lines = summary(root).splitlines()
    found = {line.split()[0]: line for line in lines[1:]}
    assert all("unreadable" in found[name] for name in (*RECORDS, "else", "other"))
    assert all("finished" in found[name] for name in "0123")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return {**changed({}), "output_dir": str(tmp_path), "resume": "auto"}


def _interrupted(folder: Path) -> None:
    write_json(folder / RECORD, {**json.loads((folder / RECORD).read_text()), "status": "interrupted"})


def _said(caplog: pytest.LogCaptureFixture) -> Iterator[str]:
    return (record.getMessage() for record in caplog.records)


def test_resume_auto_goes_on_past_odd_runs(
    good: Path, tmp_path: Path, config: dict[str, Any], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(resume, "PATIENCE_S", 0.1)
    root = tmp_path / "study"
    specials = {name: change for name, change in OUTCOMES.items() if re.search("pipe|socket|link_out", name)}
    odd = {**{name: change for name, change in RECORDS.items() if name != "status_unknown"}, **CONFIGS, **specials}
    for name in ("wanted", *odd):
        shutil.copytree(good / "0", root / name)
        (root / name / "metrics.json").unlink()
        _interrupted(root / name)
        if name in odd:
            odd[name](root / name)
    os.utime(root / "wanted" / RECORD, (1, 1))  # the oldest: each of the others is looked at first
    with caplog.at_level(logging.WARNING):
        claim = resumed_run({**config, "strategy": {**config["strategy"], "_target_": "tl_lightning.strategies.Full"}})
    assert claim is not None
    claim.release()
    assert claim.folder == root / "wanted"
    said = list(_said(caplog))
    for name in odd:
        assert _naming(said, root / name), name
        assert all("\n" not in line for line in _naming(said, root / name))
