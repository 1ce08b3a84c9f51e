"""What a run has logged, as far as two runs can agree on it."""

import csv
from pathlib import Path

from tl_lightning.throughput import CLOCKED


def curves(folder: Path) -> list[tuple[str, str, str]]:
    """The step, name and value of each row of ``metrics.csv``, those of the clock left out."""
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(r["step"], r["name"], r["value"]) for r in rows if r["name"].removeprefix("train/") not in CLOCKED]
