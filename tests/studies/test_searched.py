"""The page over the trials of a search, and what of it goes to W&B."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.studies.fabricate import latent, write_run
from tl_lightning.record import write_json
from tl_lightning.studies import publish
from tl_lightning.studies.compare import compare_page, main
from tl_lightning.studies.searched import searches

Multirun = Callable[..., int]
HISTORY = """\
trial,state,quality,seconds,optimizer.lr,strategy,seconds,folder
0,complete,0.8,3.0,0.001,full,9,trial-a
1,pruned,0.6,,0.1,lora,4,trial-b
2,fail,,,0.1,full,,trial-c
3,complete,0.9,4.0,0.002,lora,9,trial-d
"""


@pytest.fixture
def trials(tmp_path: Path) -> Path:
    """Two finished trials and what the search left beside them."""
    folder = tmp_path / "lr-0123abcd"
    for number, name in enumerate(("trial-a", "trial-d")):
        write_run(folder / name, {"optimizer.lr": 1e-3 * (number + 1)}, latent(0, 0.5 * number, n=60))
    (folder / "history.csv").write_text(HISTORY)
    write_json(folder / "importance.json", {"quality": {"optimizer.lr": 0.75, "strategy": 0.25}, "seconds": {}})
    return folder


def test_a_search_is_read_as_it_was_written(trials: Path) -> None:
    (one,), notes = searches([trials / "trial-a", trials / "trial-d"])
    assert notes == []
    assert one.states == ["complete", "pruned", "fail", "complete"]
    assert list(one.values) == ["quality", "seconds"], "the last column of that name is no objective"
    assert one.values["quality"][0] == 0.8
    assert one.values["quality"][2] != one.values["quality"][2]
    assert one.importances["quality"]["optimizer.lr"] == 0.75


def test_the_page_shows_history_and_importances(trials: Path) -> None:
    page = compare_page(trials)
    text = page.read_text()
    assert "The search lr-0123abcd: 4 trials, 2 complete" in text
    assert "fANOVA" in text
    for name in ("history.svg", "importance.svg"):
        assert f'href="{name}"' in text
        assert (page.parent / name).stat().st_size > 1000


def test_a_search_that_still_runs_has_no_importances(trials: Path) -> None:
    (trials / "importance.json").unlink()
    text = compare_page(trials).read_text()
    assert 'href="history.svg"' in text
    assert "fANOVA" not in text


@pytest.mark.parametrize("content", ["", "trial,state\nx,complete\n", "trial,state,quality\n1,complete,much\n"])
def test_a_damaged_history_hides_nothing(trials: Path, content: str) -> None:
    (trials / "history.csv").write_text(content)
    text = compare_page(trials).read_text()
    assert "its history.csv cannot be read" in text
    assert "0.002" in text


def test_runs_that_are_no_trials_have_no_search(tmp_path: Path) -> None:
    write_run(tmp_path / "a", {}, latent(0, 1.0, n=60))
    assert "The search" not in compare_page(tmp_path).read_text()


def _logged(folder: Path) -> str:
    (file,) = folder.rglob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
def test_a_multirun_on_wandb_leaves_its_page_there(multirun: Multirun, tmp_path: Path) -> None:
    words = ("logger=wandb", "logger.mode=offline", "strategy=full,linear_probe")
    assert multirun(*words) == 0
    (study,) = (tmp_path / "outputs/multirun/mini").glob("2*")
    text = _logged(study / "comparison")
    assert json.dumps(f"mini-{study.name}") in text
    assert '"study"' in text
    assert "comparison.html" in text
    assert not list((tmp_path / "outputs").rglob("comparison/*.tmp"))


def test_a_multirun_without_a_tracker_makes_no_page(multirun: Multirun, tmp_path: Path) -> None:
    assert multirun("strategy=full,linear_probe") == 0
    assert not list((tmp_path / "outputs").rglob("comparison"))


def test_a_study_that_cannot_be_compared_ends_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    publish.at_the_end({"_target_": publish.TRACKER}, tmp_path, "mini")
    assert "no page of this study" in caplog.text
    publish.publish(tmp_path / "nosuch.html", "mini", {"mode": "disabled"})
    assert "is not on Weights & Biases" in caplog.text


def test_compare_keeps_its_page_where_the_runs_are(trials: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("trial-a", "trial-d"):
        record = json.loads((trials / name / "run.json").read_text())
        write_json(trials / name / "run.json", {**record, "wandb": {"id": "a", "group": "mini-now"}})
    seen: list[object] = []
    monkeypatch.setattr("tl_lightning.wandb_run.log_study_page", lambda *what, **how: seen.append((*what[:2], how)))
    main([str(trials), "wandb=true"])
    assert seen == [(trials / "comparison" / "comparison.html", "mini-now", {})]


@pytest.mark.parametrize(
    "content",
    [
        "trial,state,lr\n1,complete,0.1\n",
        f"trial,state,quality\n{'9' * 400},complete,0.5\n",
        f"trial,state,quality\n{'9' * 5000},complete,0.5\n",
        '"' + "x" * 200_000,
        "a\n" * 10,
    ],
)
def test_an_odd_history_hides_nothing(trials: Path, content: str) -> None:
    (trials / "history.csv").write_text(content)
    assert "its history.csv cannot be read" in compare_page(trials).read_text()


def test_odd_files_of_a_search_hide_nothing(trials: Path) -> None:
    (trials / "history.csv").write_text("trial,state,quality\n1,complete,inf\n2,bought,1e400\n3,fail,\n")
    for content in ("[" * 100_000, '{"quality": {"a": "b"}}', '{"quality": [1]}', '{"quality": {"a": NaN}}'):
        (trials / "importance.json").write_text(content)
        text = compare_page(trials).read_text()
        assert 'href="history.svg"' in text
        assert "fANOVA" not in text
    (trials / "history.csv").unlink()
    os.mkfifo(trials / "history.csv")
    assert "history.csv is a pipe" in compare_page(trials).read_text()
