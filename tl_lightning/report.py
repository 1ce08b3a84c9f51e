"""What a run prints when it is done."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def aligned(rows: Iterable[Sequence[str]], left: int = 1) -> str:
    """Columns side by side, the first ``left`` ones to the left, the others to the right."""
    rows = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        for row in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)


def interval(bounds: Sequence[float | None] | None) -> str:
    """A 95% interval in words."""
    return f"{number(bounds[0])} to {number(bounds[1])}" if bounds else ""


def number(value: float | None) -> str:
    """Four digits; empty where a metric is not there or, as a record says it, not a number."""
    return "" if value is None else f"{value:.4f}"


def result_table(metrics: Mapping[str, float], intervals: Mapping[str, Sequence[float]], samples: int) -> str:
    """Test metrics with their intervals over test samples, and the validation metric beside each."""
    rows = [("", "test", "95% interval", "val (best)")]
    for name, value in metrics.items():
        stage, _, short = name.partition("/")
        if stage == "test":
            rows.append((short, number(value), interval(intervals.get(name)), number(metrics.get(f"val/{short}"))))
    return f"{aligned(rows)}\n(intervals: over the {samples} test samples, one seed)"


def farewell(folder: Path, wandb: Mapping[str, Any] | None) -> str:
    """Where the results lie and how to look further."""
    lines = [
        f"run directory  {folder}",
        f"               {folder / 'predictions.parquet'}: what was predicted for each test sample",
    ]
    if wandb and wandb.get("url"):
        lines.append(f"W&B            {wandb['url']}")
    elif wandb and wandb.get("folder"):
        lines.append(f"W&B (offline)  look: wandb leet {wandb['folder']}   upload: wandb sync {wandb['folder']}")
    return "\n".join(lines)
