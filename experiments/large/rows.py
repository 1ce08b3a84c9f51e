"""How many rows fit: memory and the wait for the first step with a file of millions of texts.

    python experiments/large/rows.py --rows 1000000 --folder DIR [--cached] [--output experiments/large/results.json]

Makes DIR/ROWS.csv of generated texts (no two alike, two in a hundred thousand nearly so), and trains on it for a few
steps with `python -m tl_lightning`, twice: with an empty cache and with the cache that the first run left.  Peak memory
is the largest sum of the resident sizes of all processes of the command, looked at ten times a second; pages of
memory-mapped files count in it, as long as the kernel leaves them there.
"""

import argparse
import json
import os
import platform
import random
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOOK_S = 0.1
BOUND_GIB = 3.0
WORDS = 50_000
NEAR_EVERY = 50_000
STEPS = 20


def texts(rows: int) -> Iterator[tuple[str, int]]:
    """Texts of some 250 letters with a label each, the same for the same number of rows."""
    chance = random.Random(2026)
    words = ["".join(chance.choices(string.ascii_lowercase, k=chance.randint(2, 9))) for _ in range(WORDS)]
    last = ""
    for row in range(rows):
        text = last.upper() if row % NEAR_EVERY == 1 else f"{row} {' '.join(chance.choices(words, k=38))}"
        yield text, row % 2
        last = text


def make(rows: int, path: Path) -> None:
    """Write the file, unless it is there."""
    if path.exists():
        return
    beside = path.with_suffix(".tmp")
    with beside.open("w") as file:
        file.write("text,label\n")
        file.writelines(f"{text},{label}\n" for text, label in texts(rows))
    beside.rename(path)


def tree(pid: int) -> list[int]:
    """A process and all that it has started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [inner for child in task.read_text().split() for inner in tree(int(child))]
        except OSError:
            continue
    return found


def resident(pid: int) -> tuple[int, int]:
    """Bytes that a process has in memory: all, and without pages of files, which the kernel may take back."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return int(lines["VmRSS"].split()[0]) << 10, int(lines["RssAnon"].split()[0]) << 10
    except (OSError, KeyError, ValueError):
        return 0, 0


def measured(words: list[str], folder: Path) -> dict[str, Any]:
    """Run the command; its peaks of memory in GiB, and the seconds that its record tells."""
    start, peak, anonymous = time.time(), 0, 0
    command = [sys.executable, "-m", "tl_lightning", *words, f"hydra.run.dir={folder}"]
    with (folder.parent / f"{folder.name}.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        while process.poll() is None:
            sizes = [resident(pid) for pid in tree(process.pid)]
            peak = max(peak, sum(size for size, _ in sizes))
            anonymous = max(anonymous, sum(size for _, size in sizes))
            time.sleep(LOOK_S)
    if process.returncode:
        raise SystemExit((folder.parent / f"{folder.name}.log").read_text())
    record = json.loads((folder / "run.json").read_text())
    return {
        "peak_gib": round(peak / 2**30, 3),
        "peak_without_files_gib": round(anonymous / 2**30, 3),
        "seconds_to_first_step": record["seconds_to_first_step"],
        "seconds": round(time.time() - start, 1),
        "durations": record["durations"],
        "near_duplicates": record["data"]["near_duplicates"],
        "rows": record["data"]["rows"],
    }


def main() -> None:
    """Measure, add to the results, and say whether the bound holds."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rows", type=int, default=1_000_000)
    options.add_argument("--folder", type=Path, required=True)
    options.add_argument("--output", type=Path, default=HERE / "results.json")
    options.add_argument("--cached", action="store_true", help="only with the cache that an earlier call left")
    options.add_argument("words", nargs="*", help="more words for the command")
    given = options.parse_args()
    from tl_lightning.origin import git_state, versions

    folder: Path = given.folder / str(given.rows)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "all.csv"
    make(given.rows, file)
    if not given.cached:
        shutil.rmtree(folder / "cache", ignore_errors=True)
    limits = [f"trainer.limit_{stage}_batches={STEPS}" for stage in ("train", "val", "test")]
    words = [
        *(
            "backbone=minilm_packaged",
            "data=text_files",
            f"data.train={file}",
            "data.max_length=128",
            "data.batch_size=8",
        ),
        *("trainer=cpu", "trainer.max_epochs=1", "trainer.enable_progress_bar=false", *limits, "logger=csv"),
        *(f"data.cache_dir={folder / 'cache'}", *given.words),
    ]
    found: dict[str, Any] = {}
    for name in ("full cache",) if given.cached else ("empty cache", "full cache"):
        shutil.rmtree(folder / name.split()[0], ignore_errors=True)
        found[name] = measured(words, folder / name.split()[0])
        print(name, json.dumps(found[name]), flush=True)
    results = json.loads(given.output.read_text()) if given.output.exists() else {}
    results[str(given.rows)] = {
        "date": time.strftime("%Y-%m-%d"),
        "git": git_state(HERE),
        "versions": versions(),
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        "file_gib": round(file.stat().st_size / 2**30, 3),
        "cache_gib": round(sum(path.stat().st_size for path in (folder / "cache").rglob("*.*")) / 2**30, 3),
        "bound_gib": BOUND_GIB,
        "holds": max(one["peak_gib"] for one in found.values()) < BOUND_GIB,
        **found,
    }
    given.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
