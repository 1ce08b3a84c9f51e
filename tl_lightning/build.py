"""Make the parts of a run from its configuration: wiring in plain Python."""

import logging
from collections.abc import Mapping
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
from lightning.pytorch.loggers import Logger

from tl_lightning import slurm
from tl_lightning.averaging import Average
from tl_lightning.callbacks import Best
from tl_lightning.checkpoints import AsideCheckpointIO
from tl_lightning.errors import UserError, first_line
from tl_lightning.interrupt import StopAtStep
from tl_lightning.job import ALONE, Job
from tl_lightning.length import limited
from tl_lightning.objectives import mode
from tl_lightning.soup import Soup
from tl_lightning.task import TransferTask
from tl_lightning.throughput import Throughput

LOG_EVERY = 50
log = logging.getLogger(__name__)


@dataclass
class Parts:
    """What a run is made of."""

    task: TransferTask
    data: Any  # a LightningDataModule with num_outputs, classes, fingerprint, summary, texts(), perhaps pictures()
    trainer: Trainer
    best: Best | None
    throughput: Throughput
    average: Average | Soup | None


def make(node: Mapping[str, Any]) -> Any:
    """Instantiate a configuration node, with plain lists and dicts inside; a fault in it comes as it is."""
    try:
        return instantiate(dict(node), _convert_="all")
    except InstantiationException as fault:
        if fault.__cause__ is None:
            raise
        raise fault.__cause__ from None


def learner(config: Mapping[str, Any]) -> tuple[TransferTask, Any]:
    """Make the task of a run and its data.

    The random state is set anew before the backbone and before the head, so that a pretrained backbone and one
    from scratch get the same head.
    """
    seed = config["seed"]
    strategy = make(config["strategy"])  # first: what it refuses must not cost the loading of model and data
    lightning.seed_everything(seed, workers=True, verbose=False)
    backbone = make(config["backbone"])
    objective = make(config["objective"])
    data = make(config["data"])(preprocessor=backbone.preprocessor, target=objective.target, seed=seed)
    data.setup()
    lightning.seed_everything(seed, workers=True, verbose=False)
    task = TransferTask(
        backbone,
        head=make(config["head"])(backbone.out_features, data.num_outputs),
        objective=objective,
        strategy=strategy,
        optimizer=make(config["optimizer"]),
        schedule=make(config["schedule"]),
        num_outputs=data.num_outputs,
        classes=data.classes,
        config=dict(config),
        on_nan=config.get("on_nan", "stop"),
    )
    return task, data


def build(config: Mapping[str, Any], folder: Path, stop: StopAtStep, tags: list[str], job: Job = ALONE) -> Parts:
    """Make all parts of one run."""
    task, data = learner(config)
    monitor = task.objective.monitor
    known = {
        "monitor": f"val/{monitor}",
        "mode": mode(monitor),
        "folder": folder / "checkpoints",
    }
    callbacks: list[Callback] = [_callback(node, known) for node in config["callbacks"].values() if node is not None]
    average = _callback(config["average"], known) if config.get("average") else None
    throughput = Throughput()
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
    trainer = make_trainer(config["trainer"], data, [*callbacks, throughput, stop, *job.callbacks], loggers, folder)
    return Parts(task, data, trainer, best, throughput, average)


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
) -> Trainer:
    """Make the trainer from its node, with the precision that suits the hardware where the node names none."""
    settings = dict(node)
    settings["precision"] = settings.get("precision") or native_precision(settings.get("accelerator", "auto"))
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32 for the float32 products that remain
    plugins = settings.pop("plugins", None) or []
    try:
        trainer: Trainer = make(settings)(
            callbacks=callbacks,
            logger=loggers,
            default_root_dir=folder,
            use_distributed_sampler=False,
            plugins=[AsideCheckpointIO(), *slurm.environment(), *plugins],
        )
    except (MisconfigurationException, ValueError) as fault:  # what no annotation says: such a device is not here
        raise UserError(f"trainer: {first_line(fault)}") from fault
    steps = max(1, limited(len(data.train_dataloader()) // trainer.world_size, trainer.limit_train_batches))
    every = min(settings.get("log_every_n_steps") or LOG_EVERY, steps)  # a short epoch logs too
    trainer.log_every_n_steps = every  # type: ignore[attr-defined]
    return trainer


def native_precision(accelerator: str) -> str:
    """``bf16-mixed`` where the hardware multiplies bfloat16 natively, else ``32-true``."""
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "32-true"
    if accelerator not in ("auto", "cpu") or torch.backends.mps.is_available():
        return "32-true"
    able: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16-mixed" if able.get("avx512_bf16") or able.get("amx_bf16") else "32-true"
