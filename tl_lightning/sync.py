"""The command ``sync``: uploads the Weights & Biases runs of a folder that no server has; says what is left and why."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tl_lightning.commands import given
from tl_lightning.errors import UserError
from tl_lightning.record import read_record, still_runs
from tl_lightning.report import aligned
from tl_lightning.shown import error, say
from tl_lightning.wandb_key import has_key, server
from tl_lightning.wandb_run import LEFT

OFFLINE = "offline-run-*"
DONE = ".synced"  # the mark that W&B leaves beside a run's file, and looks for
DEFAULTS = {"dir": "outputs", "timeout": 60.0}


def main(words: Sequence[str]) -> None:
    """Upload the runs below ``dir`` that are not, each within ``timeout`` seconds; ends with 1 where some are left.

    Raises:
        UserError: an unknown word, no such folder, or no key.
    """
    plain, options = given(words, DEFAULTS)
    if plain:
        raise UserError(f"sync takes no {plain[0]}; it takes dir=FOLDER and timeout=SECONDS")
    root, seconds = Path(options["dir"]), float(options["timeout"])
    if seconds <= 0:
        raise UserError(f"timeout={seconds:g}: above 0 seconds is expected")
    if not root.is_dir():
        raise UserError(f"dir={root}: there is no such folder")
    runs = offline_runs(root)
    if not runs:
        say(f"{root}: no offline run is left to upload")
        return
    if not has_key():
        raise UserError(f"There is no W&B key for {server()}: WANDB_API_KEY=KEY in the environment, or wandb login")
    left = _upload_all(runs, seconds)
    say(f"\n{len(runs) - len(left)} of {len(runs)} runs uploaded")
    if left:
        rows = [(str(parts[0]), why) for parts, why in left]
        error(f"left, as they were; the same command tries again:\n{aligned(rows, left=2)}")
        sys.exit(1)


def offline_runs(root: Path) -> list[list[Path]]:
    """The folders of each run that is not uploaded yet, in the order of time; one that was resumed has several.

    Those of online runs whose server did not take all of it are among them.
    """
    runs: dict[str, list[Path]] = {}
    found = {*root.rglob(OFFLINE), *(mark.parent for mark in root.rglob(LEFT))}
    for folder in sorted(found, key=lambda path: path.name.removeprefix("offline-")):
        for file in folder.glob("*.wandb"):  # its name is the id; the folder's has a number behind it within one second
            runs.setdefault(file.stem, []).append(folder)
    return [parts for parts in runs.values() if not all(map(_uploaded, parts))]


def _uploaded(folder: Path) -> bool:
    return all(path.with_name(path.name + DONE).exists() for path in folder.glob("*.wandb"))


def _upload_all(runs: Sequence[Sequence[Path]], seconds: float) -> list[tuple[Sequence[Path], str]]:
    left = []
    for number, parts in enumerate(runs, start=1):
        why = _upload(parts, seconds)
        say(f"{number}/{len(runs)}  {parts[0]}  {'uploaded' if why is None else f'left: {why}'}")
        if why is not None:
            left.append((parts, why))
    return left


def _upload(parts: Sequence[Path], seconds: float) -> str | None:
    """Upload one run; None, or why it is left."""
    if _runs_now(parts[-1]):
        return "it is still running"
    if any(not file.is_file() for part in parts for file in part.glob("*.wandb")):
        return "its .wandb is no file"
    todo = [str(part) for part in parts if not _uploaded(part)]
    command = [sys.executable, "-m", "wandb", "sync", "--yes", "--include-online", *todo]
    # With the service process of this one, which that variable names, it would end that too.
    environment = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=seconds, check=False, env={**environment, "CI": "1"}
        )
    except subprocess.TimeoutExpired as fault:
        said = fault.stderr or b""
        return f"no end after {seconds:g} s ({_last(said.decode(errors='replace'))}); timeout=SECONDS waits longer"
    if done.returncode == 0 and all(map(_uploaded, parts)):
        for part in parts:
            (part / LEFT).unlink(missing_ok=True)
        return None
    return _last(done.stderr or done.stdout) or f"wandb sync ended with {done.returncode}"


def _runs_now(folder: Path) -> bool:
    try:
        return still_runs(read_record(folder.parent.parent))
    except UserError:
        return False


def _last(text: str) -> str:
    lines = [line.removeprefix("wandb:").strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
