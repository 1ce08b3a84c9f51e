"""One Weights & Biases run: started in the background, fed through Lightning's logger, ended for good."""

import logging
import netrc
import os
import socket
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

log = logging.getLogger(__name__)

SERVER = "https://api.wandb.ai"
PROBE_S = 3.0
INIT_S, FINISH_S = 20, 60
STARTING: list[Future[WandbLogger]] = []  # W&B itself allows one run at a time in a process


class InBackground(Logger):
    """Lightning's W&B logger, started while the first steps run: it takes a second, or many where a server is slow.

    What is logged before it stands is kept and sent then, so that no step waits.
    """

    def __init__(self, start: Callable[[], WandbLogger]) -> None:
        super().__init__()
        pool = ThreadPoolExecutor(1, thread_name_prefix="wandb")
        self._future = pool.submit(start)
        STARTING.append(self._future)
        self._kept: list[tuple[Mapping[str, float], int | None]] = []
        pool.shutdown(wait=False)

    @property
    def inner(self) -> WandbLogger:
        """Lightning's own logger; waits until the run stands, and sends what was kept."""
        logger = self._future.result()
        kept, self._kept = self._kept, []
        for metrics, step in kept:
            logger.log_metrics(metrics, step)
        return logger

    @property
    def name(self) -> str:
        """The logger's name."""
        return "wandb"

    @property
    def version(self) -> str:
        """Nothing that the progress bar should show."""
        return ""

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """The run was started with its configuration."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log at ``step`` optimizer steps."""
        self._kept.append((dict(metrics), step))
        if self._future.done():
            _ = self.inner

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what was kept and close Lightning's part; the run itself goes on until ``finish``."""
        self.inner.finalize(status)

    def facts(self) -> dict[str, Any]:
        """Id, address (None offline) and folder of the run, for the record."""
        run = self.inner.experiment
        return {"id": run.id, "url": None if run.offline else run.url, "folder": str(Path(run.dir).parent)}


def start(mode: str, what: dict[str, Any], folder: Path) -> WandbLogger:
    """Start a run; offline where the server turns out not to take it."""
    run = _started(mode, what, folder)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, save_dir=folder)


def _started(mode: str, what: dict[str, Any], folder: Path) -> Any:
    import wandb

    settings = wandb.Settings(init_timeout=INIT_S, finish_timeout=FINISH_S, silent=True)
    try:
        return wandb.init(**what, dir=folder, mode=mode, settings=settings)  # type: ignore[arg-type]
    except wandb.errors.Error as fault:
        log.warning("Weights & Biases does not work now (%s): this run is kept offline", fault)
        return wandb.init(**what, dir=folder, mode="offline", settings=settings)


def reachable() -> bool:
    """Whether there is a key and the server takes connections; without this probe W&B blocks for minutes."""
    url = os.environ.get("WANDB_BASE_URL", SERVER)
    parts = urlsplit(url)
    if not os.environ.get("WANDB_API_KEY") and not _in_netrc(parts.hostname or ""):
        return False
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=PROBE_S):
            return True
    except OSError:
        log.warning("%s does not answer: Weights & Biases keeps this run offline", url)
        return False


def _in_netrc(host: str) -> bool:
    """Whether ``wandb login`` has left a key for ``host``."""
    places: list[str | Path] = [os.environ.get("NETRC", ""), Path.home() / ".netrc", Path.home() / "_netrc"]
    found = next((Path(place) for place in places if place and Path(place).is_file()), None)
    try:
        return found is not None and netrc.netrc(found).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


def finish(failed: bool = False) -> None:
    """End the W&B run, so that the next run in this process gets its own; ``failed`` shows there as such."""
    wait(STARTING)
    STARTING.clear()
    module = sys.modules.get("wandb")
    if module is not None and module.run is not None:
        module.finish(exit_code=int(failed))
