"""Make the parts of a run from its configuration: wiring in plain Python."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.loggers import Logger
from torch import nn

from tl_lightning import slurm
from tl_lightning.averaging import Average
from tl_lightning.bar import Bar
from tl_lightning.callbacks import Best
from tl_lightning.checkpoints import AsideCheckpointIO
from tl_lightning.compiled import Compiled
from tl_lightning.errors import UserError, first_line
from tl_lightning.features import CachedFeatures
from tl_lightning.files import PACKAGE, located
from tl_lightning.grid_task import GridTask
from tl_lightning.interrupt import StopAtStep
from tl_lightning.job import ALONE, Job
from tl_lightning.length import limited, refuse_no_batches
from tl_lightning.objectives import Objective, mode
from tl_lightning.precision import native_precision
from tl_lightning.soup import Soup
from tl_lightning.targets import locate
from tl_lightning.task import TransferTask
from tl_lightning.throughput import Throughput

LOG_EVERY = 50
UNFIT = (MisconfigurationException, ImportError, OverflowError, TypeError, ValueError)  # how Lightning refuses a word
log = logging.getLogger(__name__)


@dataclass
class Light:
    """The parts of a run that cost little to make, with its data looked at as far as that goes without the backbone."""

    strategy: Any
    optimizer: Any
    schedule: Any
    objective: Objective
    data: Any | None  # None where it cannot be made without the backbone
    seconds: float  # that it took


@dataclass
class Parts:
    """What a run is made of."""

    task: TransferTask
    data: Any  # a LightningDataModule with num_outputs, classes, fingerprint, summary, texts(), perhaps pictures()
    trainer: Trainer
    best: Best | None
    throughput: Throughput
    average: Average | Soup | None
    features: CachedFeatures


def make(node: Mapping[str, Any]) -> Any:
    """Instantiate a configuration node, with plain lists and dicts inside; a fault in it comes as it is."""
    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as fault:
        if fault.__cause__ is None:
            raise
        raise fault.__cause__ from None


def light(config: Mapping[str, Any]) -> Light:
    """Make what is made first: what is refused here costs neither a model nor a run directory.

    Raises:
        UserError: a package is not installed, the optimizer refuses its words, or something is wrong with the data;
            lists all that is wrong with them.
    """
    start = time.monotonic()
    strategy, objective = make(config["strategy"]), make(config["objective"])
    optimizer, schedule = make(config["optimizer"]), make(config["schedule"])
    _try_step(optimizer, schedule)
    _require(config["backbone"])
    node, data = make(config["data"]), None
    if hasattr(node.func, "look"):  # else a user's own
        data = node(preprocessor=None, target=objective.target, seed=config["seed"])
        data.look()
    return Light(strategy, optimizer, schedule, objective, data, time.monotonic() - start)


def _require(backbone: Mapping[str, Any]) -> None:
    """Refuse a backbone whose package is not installed, without making it."""
    part = locate(backbone["_target_"])
    if hasattr(part, "require"):
        part.require()
    for value in backbone.values():
        if isinstance(value, str) and value.startswith(PACKAGE):
            located(value)


def learner(config: Mapping[str, Any], made: Light | None = None) -> tuple[TransferTask, Any]:
    """Make the task of a run and its data; ``made`` holds the light parts where they are made already.

    The random state is set anew before the backbone and before the head, so that a pretrained backbone and one
    from scratch get the same head.
    """
    seed, made = config["seed"], made or light(config)
    objective, data = made.objective, made.data
    lightning.seed_everything(seed, workers=True, verbose=False)
    backbone = make(config["backbone"])
    if data is None:
        data = make(config["data"])(preprocessor=backbone.preprocessor, target=objective.target, seed=seed)
    else:
        data.preprocessor = backbone.preprocessor
    data.setup()
    lightning.seed_everything(seed, workers=True, verbose=False)
    head = make(config["head"])(backbone.out_features, data.num_outputs)
    task = _task_of(head, made.optimizer)(
        backbone,
        head=head,
        objective=objective,
        strategy=made.strategy,
        optimizer=made.optimizer,
        schedule=made.schedule,
        num_outputs=data.num_outputs,
        classes=data.classes,
        config=dict(config),
        on_nan=config.get("on_nan", "stop"),
        compiled=Compiled(word) if (word := config.get("compile", False)) else None,
    )
    return task, data


def _try_step(optimizer: Callable[..., Any], schedule: Callable[..., Any]) -> None:
    """Find out on a matrix and a vector what an optimizer and a schedule say of their words.

    Raises:
        UserError: one of them refuses its words, or what a run trains.
    """
    keywords = getattr(optimizer, "keywords", {})
    device = "cuda" if keywords.get("capturable") and torch.cuda.is_available() else "cpu"
    weights = [nn.Parameter(torch.zeros(*shape, device=device)) for shape in ((2, 2), (2,))]
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    with _refusing("optimizer"):
        made = optimizer([{"params": [weight]} for weight in weights])
        made.step(lambda: torch.zeros(()))
    with _refusing("schedule"):
        schedule(made, total_steps=10)


@contextmanager
def _refusing(part: str) -> Iterator[None]:
    try:
        yield
    except (AssertionError, RuntimeError, TypeError, ValueError) as fault:
        raise UserError(f"{part}: {first_line(fault)}") from fault


def _task_of(head: nn.Module, optimizer: Any) -> Callable[..., TransferTask]:
    """The kind of task: many heads where the head names a grid; what it leaves out is the optimizer's own value."""
    lrs, weight_decays = getattr(head, "lr_grid", None), getattr(head, "weight_decay_grid", None)
    if lrs is None and weight_decays is None:
        return TransferTask
    own = optimizer.keywords
    return partial(GridTask, lrs=lrs or [own["lr"]], weight_decays=weight_decays or [own.get("weight_decay", 0.0)])


def build(
    config: Mapping[str, Any],
    folder: Path,
    stop: StopAtStep,
    tags: list[str],
    job: Job = ALONE,
    precision: str | None = None,
    made: Light | None = None,
) -> Parts:
    """Make all parts of one run.

    Args:
        config: of the run.
        folder: its run directory.
        stop: ends it at a signal.
        tags: words for the tracker.
        job: what it is part of.
        precision: what the trainer gets where the configuration names none.
        made: the light parts, where they are made already.
    """
    task, data = learner(config, made)
    monitor = task.objective.monitor
    known = {
        "monitor": f"val/{monitor}",
        "mode": mode(monitor),
        "folder": folder / "checkpoints",
    }
    callbacks: list[Callback] = [_callback(node, known) for node in config["callbacks"].values() if node is not None]
    average = _callback(config["average"], known) if config.get("average") else None
    throughput, features = Throughput(), CachedFeatures(data)
    loggers = make(config["logger"])(
        folder=folder,
        name=_run_name(config, folder),
        group=job.group or config["name"],
        tags=tags,
        config=dict(config),
        job_type=job.kind,
    )
    best = next((callback for callback in callbacks if isinstance(callback, Best)), None)
    if average is not None:  # best.ckpt holds the averaged weights, last.ckpt those that train on
        callbacks.insert(callbacks.index(best) + 1 if best else 0, average)
    beside = [features, *callbacks, throughput, stop, *job.callbacks]  # features first: they are no training time
    trainer = make_trainer(config["trainer"], data, beside, loggers, folder, precision)
    refuse_no_batches(trainer, data)
    return Parts(task, data, trainer, best, throughput, average, features)


def _callback(node: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    made = make(node)
    return made(**known) if isinstance(made, partial) else made


def _run_name(config: Mapping[str, Any], folder: Path) -> str:
    return f"{config['name']}-{folder.name}"


def make_trainer(
    node: Mapping[str, Any],
    data: LightningDataModule,
    callbacks: list[Callback],
    loggers: list[Logger],
    folder: Path,
    precision: str | None = None,
) -> Trainer:
    """Make the trainer from its node; one without a precision gets this one, else the one that suits the hardware."""
    settings = dict(node)
    precision = settings.get("precision") or precision or native_precision(settings.get("accelerator", "auto"))
    settings["precision"] = precision
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 for the float32 products that remain
    plugins = settings.pop("plugins", None) or []
    if settings.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
        callbacks = [*callbacks, Bar()]
    try:
        trainer: Trainer = make(settings)(
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=folder,
            use_distributed_sampler=False,
            plugins=[AsideCheckpointIO(), *slurm.environment(), *plugins],
        )
    except UNFIT as fault:  # what no annotation says: such a device or package is not here
        raise UserError(f"trainer: {first_line(fault)}") from fault
    data.trainer = trainer  # how long an epoch is depends on how many processes share it
    steps = max(1, limited(len(data.train_dataloader()), trainer.limit_train_batches))
    every = min(settings.get("log_every_n_steps") or LOG_EVERY, steps)  # a short epoch logs too
    trainer.log_every_n_steps = every  # type: ignore[attr-defined]
    return trainer
