"""Where the code of a run comes from: versions of packages, the hash of this one's source, and the state of git."""

import os
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tl_lightning.identity import code_hash

PACKAGE = Path(__file__).parent
PACKAGES = (
    "tl_lightning",
    "torch",
    "lightning",
    "transformers",
    "datasets",
    "torchmetrics",
    "hydra-core",
    "wandb",
)
PATIENCE_S = 10.0  # for git, on a slow file system
# What a hook of git, which may have started this process, has set would make it look elsewhere.
ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_PREFIX", "GIT_NAMESPACE")


def versions() -> dict[str, str]:
    """Versions of the packages that decide what a run does."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def code() -> dict[str, Any]:
    """This package: its version, the hash of its source, and git's state where its folder is part of a repository.

    An installed wheel has none, and neither has one in a virtual environment inside of the user's own repository.
    """
    return {"version": versions().get("tl_lightning"), "source": code_hash(), "git": code_git(PACKAGE)}


def code_git(package: Path) -> dict[str, Any] | None:
    """Commit of the repository that tracks ``package``, and whether its files, new ones too, differ from it."""
    if git(package, "ls-files", "--error-unmatch", "--", "__init__.py") is None:
        return None
    return _state(package, "--", ".")


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Commit of the repository around a folder, and whether its tracked files differ from it.

    Args:
        folder: by default the one that the command was started in.

    Returns:
        ``commit`` and ``dirty`` (None where git does not say in time); None outside a repository.
    """
    try:
        return _state(folder or Path.cwd(), "--untracked-files=no")
    except FileNotFoundError:  # the folder that the command was started in is gone
        return None


def _state(folder: Path, *which: str) -> dict[str, Any] | None:
    commit = git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    changed = git(folder, "status", "--porcelain", *which)
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def git(folder: Path, *words: str) -> str | None:
    """What git says of a folder; None where it fails.  It writes nothing there, and starts no file watcher."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "-c", "core.fsmonitor=false", *words],  # noqa: S607
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE_S,
            check=False,
            env={**environment, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
