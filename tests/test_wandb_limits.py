"""Whatever a run, a study or a user is called: W&B takes it, or it is refused in words."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_lightning import tracking, wandb_run
from tl_lightning.errors import UserError
from tl_lightning.wandb_limits import artifact_name, fitting, is_run_id, tags

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
LONG = "a_very_long_name_of_" + "x" * 300


@pytest.fixture(autouse=True)
def _no_run_left() -> Iterator[None]:
    yield
    wandb_run.finish()


def _tracked(folder: Path, name: str, group: str, words: list[str], **more: Any) -> Any:
    _, logger = tracking.wandb(folder, name, group, words, {"name": name}, **more)
    assert isinstance(logger, wandb_run.InBackground)
    return logger.inner.experiment


def test_long_and_odd_names_cost_a_run_nothing(tmp_path: Path) -> None:
    words = [f"data:{LONG}", f"data:{LONG}2", "", "plain", "plain", "a\x1bb", " "]
    run = _tracked(tmp_path, LONG, LONG, words)
    assert run.offline
    assert len(run.tags) == 4
    assert {"plain", "a\\x1bb"} < set(run.tags)
    assert max(map(len, run.tags)) == 64
    assert len(run.name) == len(run.group) == 128


def test_what_is_cut_stays_unique_and_the_same() -> None:
    assert fitting(LONG) != fitting(LONG + "y")
    assert fitting(LONG) == fitting(LONG)
    assert fitting("short") == "short"


@given(st.lists(st.text(), max_size=6))
@settings(deadline=None)
def test_any_tags_pass_the_check_of_the_client(words: list[str]) -> None:
    found = tags(words)
    wandb.Settings(run_tags=tuple(found), run_name=fitting("".join(words)) or None, run_group=fitting("".join(words)))
    json.dumps(found).encode()
    assert len(set(found)) == len(found)


@given(st.text())
@settings(deadline=None)
def test_any_group_names_an_artifact(group: str) -> None:
    wandb.Artifact(artifact_name(group), type="study")


def test_groups_that_differ_do_not_share_an_artifact() -> None:
    assert artifact_name("mini now") == "mini_now"
    groups = ("\u043e\u0434\u0438\u043d", "\u0434\u0432\u0430!", "a/b", "a:b", "", LONG)
    assert len({artifact_name(group) for group in groups}) == len(groups)


@pytest.mark.parametrize("project", ["team/project", "", "x" * 129, "50%", "a#b"])
def test_a_project_that_cannot_be_is_refused_in_words(project: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"logger.project=.*1 to 128 letters"):
        tracking.wandb(tmp_path, "a", "g", [], {}, project=project)
    assert wandb.run is None


@pytest.mark.parametrize(
    "found", [{"id": "a/b", "group": "g"}, {"id": 3, "group": "g"}, {"id": "../x"}, {"id": "a" * 99}]
)
def test_a_foreign_record_does_not_choose_an_id_that_w_and_b_refuses(found: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps({"wandb": found}))
    assert is_run_id(_tracked(tmp_path, "a", "g", []).id)


def test_no_secret_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in names, tags and configuration nor with the words of the command, which the client takes by itself."""
    monkeypatch.setenv("DB_PASSWORD", "canary1")
    monkeypatch.setattr("sys.argv", ["python", "data.password=canary2", "data.url=mysql://me:canary3@host"])
    config = {"data": {"password": "canary4", "url": "mysql://me:can/ary5@host", "deep": [{"said": "canary1"}]}}
    _, logger = tracking.wandb(tmp_path, "canary1-a", "canary1", ["data:canary1", "x=mysql://me:canary6@host"], config)
    assert isinstance(logger, wandb_run.InBackground)
    assert logger.inner
    wandb_run.finish()
    wandb.teardown()  # all is on the disk
    (file,) = tmp_path.rglob("*.wandb")
    content = file.read_bytes()
    assert b"data.url" in content
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"canary" not in path.read_bytes(), path
    assert b"ary5" not in content
