"""Which code a run ran: told wherever the command is started, and however the package is installed."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tl_lightning.identity import code_hash
from tl_lightning.origin import code, code_git, git_state
from tl_lightning.record import Record


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package in it, committed."""
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@example.com")
    folder = tmp_path / "user"
    (folder / "package").mkdir(parents=True)
    (folder / "package/__init__.py").touch()
    (folder / "notes.txt").touch()
    _git(folder, "init", "-q")
    _git(folder, "add", ".")
    _git(folder, "commit", "-q", "-m", "all")
    return folder


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_record_tells_the_code_and_the_repository_of_the_user(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    found = Record(tmp_path, {}, writes=False).content
    assert found["git"] == {"commit": _git(repository, "rev-parse", "HEAD"), "dirty": False}
    assert found["code"] == code()
    assert found["code"]["source"] == code_hash()
    assert re.fullmatch(r"[0-9a-f]{16}", found["code"]["source"])
    assert found["code"]["version"] == found["versions"]["tl_lightning"]
    monkeypatch.chdir(tmp_path)
    elsewhere = Record(tmp_path, {}, writes=False).content
    assert elsewhere["git"] is None
    assert elsewhere["code"] == found["code"], "started elsewhere, it is the same code"


def test_the_code_of_a_checkout_has_a_commit(monkeypatch: pytest.MonkeyPatch, repository: Path) -> None:
    monkeypatch.chdir(repository)
    package = repository / "package"
    commit = _git(repository, "rev-parse", "HEAD")
    assert code_git(package) == {"commit": commit, "dirty": False}
    (repository / "notes.txt").write_text("changed")
    assert code_git(package) == {"commit": commit, "dirty": False}, "of the package alone"
    assert git_state() == {"commit": commit, "dirty": True}
    (package / "new.py").touch()
    assert code_git(package) == {"commit": commit, "dirty": True}, "a new file is code too"


def test_what_is_installed_inside_of_the_users_repository_is_not_of_it(repository: Path) -> None:
    installed = repository / ".venv/lib/site-packages/tl_lightning"
    installed.mkdir(parents=True)
    (installed / "__init__.py").touch()
    assert code_git(installed) is None
    (repository / ".gitignore").write_text(".venv\n")
    assert code_git(installed) is None


def test_a_hook_of_git_that_starts_a_run_does_not_mislead_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    _git(other, "init", "-q")
    _git(other, "commit", "-q", "--allow-empty", "-m", "other")
    expected = _git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    found = git_state(repository)
    assert found == {"commit": expected, "dirty": False}


def test_git_starts_no_program_that_a_repository_names(repository: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {proof}\n")
    program.chmod(0o755)
    _git(repository, "config", "core.fsmonitor", str(program))
    assert git_state(repository) is not None
    assert not proof.exists()


def test_a_git_that_does_not_answer_says_neither_clean_nor_dirty(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.run

    def slow(words: list[str], **how: Any) -> Any:
        if "status" in words:
            raise subprocess.TimeoutExpired(words, 1)
        return real(words, **how)

    monkeypatch.setattr(subprocess, "run", slow)
    assert git_state(repository) == {"commit": _git(repository, "rev-parse", "HEAD"), "dirty": None}


def test_a_folder_that_is_gone_has_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    try:
        assert git_state() is None
    finally:
        os.chdir(tmp_path)
