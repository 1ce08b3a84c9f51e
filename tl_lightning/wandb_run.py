"""One Weights & Biases run: started in the background, fed through Lightning's logger, ended for good."""

import logging
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from tl_lightning.errors import first_line
from tl_lightning.wandb_key import reachable as reachable

log = logging.getLogger(__name__)

INIT_S, FINISH_S = 20, 60
LEFT = "not-uploaded"
STARTING: list[Future[WandbLogger]] = []  # W&B itself allows one run at a time in a process


class InBackground(Logger):
    """Lightning's W&B logger, started while the first steps run: it takes a second, or many where a server is slow.

    What is logged before it stands is kept and sent then, so that no step waits.  Where W&B fails altogether, the run
    goes on without it.
    """

    def __init__(self, start: Callable[[], WandbLogger], known: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self.known = dict(known)  # id and group, before the run stands
        pool = ThreadPoolExecutor(1, thread_name_prefix="wandb")
        self._future = pool.submit(start)
        STARTING.append(self._future)
        self._kept: list[tuple[Mapping[str, float], int | None]] = []
        self._failed = False
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
            self.use(lambda _: None)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Send what was kept and close Lightning's part; the run itself goes on until ``finish``."""
        self.use(lambda logger: logger.finalize(status))

    def use(self, how: Callable[[WandbLogger], object]) -> None:
        """Do something with the run; what W&B's client raises then costs its curves, never the training."""
        if self._failed:
            return
        try:
            how(self.inner)
        except Exception as fault:  # whatever the end of its service process leads to
            self._failed = True
            told = f"{type(fault).__name__}: {first_line(fault)}"
            log.warning("Weights & Biases has failed (%s): the run goes on without; metrics.csv has the curves.", told)

    def facts(self) -> dict[str, Any]:
        """Id, address (None offline) and folder of the run, for the record; no folder where W&B has failed."""
        found: dict[str, Any] = {**self.known, "url": None, "folder": None}

        def look(logger: WandbLogger) -> None:
            run = logger.experiment
            found.update(id=run.id, url=None if run.offline else run.url, folder=str(Path(run.dir).parent))

        self.use(look)
        return found


def start(mode: str, what: dict[str, Any], folder: Path) -> WandbLogger:
    """Start a run, or go on with the one of that id; offline where the server turns out not to take it."""
    run = _started(mode, what, folder)
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    return WandbLogger(experiment=run, save_dir=folder)


def _started(mode: str, what: dict[str, Any], folder: Path) -> Any:
    import wandb

    settings = wandb.Settings(init_timeout=INIT_S, finish_timeout=FINISH_S, finish_timeout_raises=True, silent=True)
    try:
        run = wandb.init(**what, dir=folder, mode=mode, resume="allow", settings=settings)  # type: ignore[arg-type]
        if mode == "online":
            left_mark(run).touch()
        return run
    except Exception as fault:  # its own errors, and those of a service process that is busy or gone
        if mode != "online":
            raise
        log.warning("Weights & Biases does not work now (%s): this run is kept offline", fault)
        wandb.teardown()  # the service still holds the id of the run that failed
        return wandb.init(**what, dir=folder, mode="offline", resume="allow", settings=settings)


def log_best(loggers: Sequence[Logger], metrics: Mapping[str, float]) -> None:
    """Put the metrics of the best validation into the summary as ``best/...``, beside the last ones.

    Args:
        loggers: those of the run; only W&B's is used.
        metrics: of the best validation, with their stage.
    """
    for logger in loggers:
        if isinstance(logger, InBackground):
            best = {f"best/{name}": value for name, value in metrics.items()}
            logger.use(lambda inner, best=best: inner.experiment.summary.update(best))  # type: ignore[misc]


def log_study_page(
    path: Path,
    group: str,
    run_id: str,
    project: str = "tl_lightning",
    entity: str | None = None,
    mode: str | None = None,
) -> None:
    """Keep a page about many runs on W&B: an artifact of a small run of its own in their group; offline as any run.

    Args:
        path: the page.
        group: of the runs that the page is about; the artifact has its name.
        run_id: of the small run.
        project: on Weights & Biases.
        entity: user or team; by default that of the key.
        mode: online, offline or disabled; by default online where that works.
    """
    import wandb

    mode = mode or os.environ.get("WANDB_MODE") or ("online" if reachable() else "offline")
    what = {"project": project, "entity": entity, "name": f"{group}-page", "group": group, "job_type": "study"}
    run = _started(mode, {**what, "id": run_id}, path.parent)
    page = wandb.Artifact(re.sub(r"[^\w.-]", "_", group), type="study")
    page.add_file(str(path))
    run.log_artifact(page)
    run.finish()


def finish(failed: bool = False) -> None:
    """End the W&B run, so that the next run in this process gets its own; ``failed`` shows there as such.

    Where the server does not take all of it in time, the rest stays on this machine.
    """
    wait(STARTING)
    STARTING.clear()
    module = sys.modules.get("wandb")
    if module is None or module.run is None:
        return
    mark = left_mark(module.run)
    try:
        module.finish(exit_code=int(failed))
    except TimeoutError:
        log.warning("Weights & Biases did not take all of this run within %s s: tl-lightning sync sends it", FINISH_S)
    except Exception as fault:
        log.warning("Weights & Biases could not end this run (%s): %s", type(fault).__name__, first_line(fault))
    else:
        mark.unlink(missing_ok=True)


def left_mark(run: Any) -> Path:
    """A file beside those of an online run that stands there until the server has all of it."""
    return Path(run.dir).parent / LEFT
