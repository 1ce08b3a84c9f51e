"""One Weights & Biases run: started in the background, fed through Lightning's logger, ended for good."""

import logging
import os
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from tl_lightning.errors import first_line
from tl_lightning.patience import Patience, in_background, nobody
from tl_lightning.redact import redacted_word
from tl_lightning.wandb_key import answers, server
from tl_lightning.wandb_key import reachable as reachable
from tl_lightning.wandb_limits import artifact_name, fitting

log = logging.getLogger(__name__)

INIT_S, FINISH_S = 20, 60  # of a server that answers
END_S = 4.0  # all that a server which does not answer costs a run at its end
LOCAL_S = 30.0  # for what W&B's client does on this machine alone, which takes about one
SERVICE = "WANDB_SERVICE"  # names the service process that W&B's client has started
PARTING = threading.Lock()
LEFT = "not-uploaded"
STARTING: "list[InBackground]" = []  # W&B itself allows one run at a time in a process


class Start:
    """Starts a run, or goes on with the one of that id; offline where the server turns out not to take it.

    Args:
        what: of ``wandb.init``, within W&B's limits.
        folder: of the run.
        mode: ``online``, ``offline`` or ``disabled``; by default as the environment says, else online where there is
            a key and the server answers.
    """

    def __init__(self, what: Mapping[str, Any], folder: Path, mode: str | None = None) -> None:
        self.what, self.folder = what, folder
        self.mode = mode or os.environ.get("WANDB_MODE")
        self._asks, self._given_up = self.mode in (None, "online"), False
        self._lock = threading.Lock()

    def asks(self) -> bool:
        """Whether it waits for the server."""
        return self._asks

    def give_up(self) -> None:
        """Wait for the server no longer: what waits for it fails, and the run is started offline."""
        with self._lock:
            self._given_up = True
            if self._asks:
                leave_service()

    def __call__(self) -> WandbLogger:
        """Where the run stands, Lightning's logger of it."""
        run = self._started(self.mode or ("online" if reachable() else "offline"))
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run, save_dir=self.folder)

    def _started(self, mode: str) -> Any:
        run = self._online() if mode == "online" else None
        if run is None:
            self._stop_asking()
            run = self._init("offline" if mode == "online" else mode)
        return run

    def _online(self) -> Any:
        if self._given_up:
            return None
        try:
            run = self._init("online")
            left_mark(run).touch()
            if self._stop_asking():
                return run
            told = "it answers too late"
        except Exception as fault:  # its own errors, and those of a service process that is busy or gone
            told = first_line(fault)
        log.warning("Weights & Biases does not work now (%s): this run is kept offline", told)
        leave_service()  # it still holds the id of the run that failed
        return None

    def _stop_asking(self) -> bool:
        """From here on ``give_up`` ends nothing; whether it has not been called before."""
        with self._lock:
            self._asks = False
            return not self._given_up

    def _init(self, mode: str) -> Any:
        import wandb

        settings = wandb.Settings(
            init_timeout=INIT_S,
            finish_timeout=FINISH_S,
            finish_timeout_raises=True,
            silent=True,
            x_disable_meta=any(redacted_word(word) != word for word in sys.argv),  # it holds the words as typed
        )
        return wandb.init(**self.what, dir=self.folder, mode=mode, resume="allow", settings=settings)  # type: ignore[arg-type]


def leave_service() -> None:
    """Part with W&B's service process, which may wait for its server as long as it likes; a new run gets a new one."""
    import wandb

    with PARTING:
        if SERVICE in os.environ:
            parted = in_background(wandb.teardown)  # ends with the process; takes its name away first
            end = time.monotonic() + LOCAL_S
            while SERVICE in os.environ and not parted.done() and time.monotonic() < end:
                time.sleep(0.01)


class InBackground(Logger):
    """Lightning's W&B logger, started while the first steps run: it takes a second, or many where a server is slow.

    What is logged before it stands is kept and sent then, so that no step waits.  Where W&B fails altogether, the run
    goes on without it.
    """

    def __init__(self, start: Callable[[], WandbLogger], known: Mapping[str, Any] = MappingProxyType({})) -> None:
        super().__init__()
        self.known = dict(known)  # id and group, before the run stands
        self.patience = Patience(END_S, answers)
        self._start = start
        self._future = in_background(start)
        STARTING.append(self)
        self._kept: list[tuple[Mapping[str, float], int | None]] = []
        self._failed = False

    def settle(self) -> Future[WandbLogger]:
        """Wait until the run stands, online or, where the server is not there in time, offline."""
        asks = self._start.asks if isinstance(self._start, Start) else nobody
        if not self.patience.wait(self._future, INIT_S + LOCAL_S, asks) and isinstance(self._start, Start):
            self._start.give_up()
            self.patience.wait(self._future, LOCAL_S, nobody)
        return self._future

    @property
    def inner(self) -> WandbLogger:
        """Lightning's own logger; waits until the run stands, and sends what was kept."""
        logger = self.settle().result(timeout=0)
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

    def there(self) -> bool:
        """Whether what asks the server may be done: the run is offline, or the server answers in time."""
        try:
            if self._failed or self.inner.experiment.offline or self.patience.answered():
                return True
        except Exception:  # told where the run is used
            return True
        log.warning("%s does not answer: the tables of the test are not on Weights & Biases", server())
        return False

    def facts(self) -> dict[str, Any]:
        """Id, address (None offline) and folder of the run, for the record; no folder where W&B has failed."""
        found: dict[str, Any] = {**self.known, "url": None, "folder": None}

        def look(logger: WandbLogger) -> None:
            run = logger.experiment
            found.update(id=run.id, url=None if run.offline else run.url, folder=str(Path(run.dir).parent))

        self.use(look)
        return found


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
    group = fitting(group)
    what = {"project": project, "entity": entity, "name": fitting(f"{group}-page"), "group": group, "id": run_id}
    logger = InBackground(Start({**what, "job_type": "study"}, path.parent, mode))
    try:
        _log_page(logger.inner.experiment, path, group)
    finally:
        finish()


def _log_page(run: Any, path: Path, group: str) -> None:
    import wandb

    page = wandb.Artifact(artifact_name(group), type="study")
    page.add_file(str(path))
    run.log_artifact(page)


def finish(failed: bool = False) -> None:
    """End the W&B run, so that the next run in this process gets its own; ``failed`` shows there as such.

    Where the server does not take all of it in time, the rest stays on this machine.
    """
    patience = Patience(END_S, answers)
    for logger in STARTING:
        logger.settle()
        patience = logger.patience
    STARTING.clear()
    module = sys.modules.get("wandb")
    if module is None or module.run is None:
        return
    if not module.run.offline and not patience.answered():
        log.warning("%s does not answer: tl-lightning sync sends what is left of this run", server())
    mark = left_mark(module.run)
    _tell_end(in_background(partial(module.finish, exit_code=int(failed))), mark)


def _tell_end(ended: Future[None], mark: Path) -> None:
    try:
        ended.result()
    except TimeoutError:
        log.warning("Weights & Biases did not take all of this run within %s s: tl-lightning sync sends it", FINISH_S)
    except Exception as fault:
        log.warning("Weights & Biases could not end this run (%s): %s", type(fault).__name__, first_line(fault))
    else:
        mark.unlink(missing_ok=True)


def left_mark(run: Any) -> Path:
    """A file beside those of an online run that stands there until the server has all of it."""
    return Path(run.dir).parent / LEFT
