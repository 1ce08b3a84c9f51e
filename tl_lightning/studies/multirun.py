"""The table at the end of a ``--multirun``."""

from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, read_record
from tl_lightning.report import aligned, interval


class Summary(Callback):
    """Prints one line for each job: what it was, its state, the metric that selects on ``val`` and on ``test``."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:  # noqa: ARG002
        """Print the table."""
        folder = Path(config.hydra.sweep.dir)
        text = summary(folder)
        if text:
            print(f"\n{text}\n\nruns  {folder}")


def summary(folder: Path) -> str:
    """The table over the run directories directly in ``folder``; empty if there are none."""
    rows = [_row(record.parent) for record in sorted(folder.glob(f"*/{RECORD}"), key=_number)]
    if not rows:
        return ""
    metric = next((row[2] for row in rows if row[2]), "")
    heading = ("job", "status", f"test {metric}", "95% interval", f"val {metric}")
    return aligned([heading, *((name, status, *rest) for name, status, _, *rest in rows)])


def _number(record: Path) -> tuple[int, str]:
    name = record.parent.name
    return (int(name) if name.isdigit() else 0, name)


def _row(folder: Path) -> tuple[str, str, str, str, str, str]:
    try:
        record = read_record(folder)
    except UserError:
        return (folder.name, "unreadable", "", "", "", "")
    label = " ".join([folder.name, *record.get("overrides", [])])
    name = str(record.get("selected_by", "")).removeprefix("val/")
    metrics = record.get("metrics", {})
    shown = [metrics.get(f"{stage}/{name}") for stage in ("test", "val")]
    test, val = ("" if value is None else f"{value:.4f}" for value in shown)
    return (label, str(record.get("status")), name, test, interval(record.get("intervals", {}).get(f"test/{name}")), val)
