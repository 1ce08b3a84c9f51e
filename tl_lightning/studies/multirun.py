"""The table at the end of a ``--multirun``."""

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, read_record
from tl_lightning.report import aligned, interval, number


class Summary(Callback):
    """Prints one line for each job: what it was, its state, the metric that selects on ``val`` and on ``test``."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        show(Path(config.hydra.sweep.dir))


def show(folder: Path) -> None:
    """Print the table over ``folder``, if there are runs in it."""
    text = summary(folder)
    if text:
        print(f"\n{text}\n\nruns  {folder}")


def summary(folder: Path) -> str:
    """The table over the run directories directly in ``folder``; empty if there are none."""
    folders = sorted((path.parent for path in folder.glob(f"*/{RECORD}")), key=_number)
    records = {path.name: _read(path) for path in folders}
    if not records:
        return ""
    metric = next((_metric(record) for record in records.values() if _metric(record)), "")
    heading = ("job", "", "status", f"test {metric}", "95% interval", f"val {metric}")
    typed = [set(record["overrides"]) for record in records.values() if "overrides" in record]
    common = set.intersection(*typed) if typed else set()
    return aligned([heading, *(_row(name, record, common) for name, record in records.items())], left=2)


def _number(folder: Path) -> tuple[int, str]:
    return (int(folder.name) if folder.name.isdigit() else 0, folder.name)


def _read(folder: Path) -> dict[str, Any]:
    try:
        return read_record(folder)
    except UserError:
        return {"status": "unreadable"}


def _metric(record: Mapping[str, Any]) -> str:
    return str(record.get("selected_by", "")).removeprefix("val/")


def _row(name: str, record: Mapping[str, Any], common: Set[str]) -> tuple[str, ...]:
    metrics, metric = record.get("metrics", {}), _metric(record)
    own = " ".join(word for word in record.get("overrides", []) if word not in common)
    test, val = (number(metrics.get(key)) for key in (f"test/{metric}", f"val/{metric}"))
    return (
        name,
        own,
        str(record.get("status")),
        test,
        interval(record.get("intervals", {}).get(f"test/{metric}")),
        val,
    )
