"""The features of a frozen backbone, computed once and read from the cache from then on."""

import logging
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from tl_lightning.backbones.base import FEATURES
from tl_lightning.backbones.fingerprint import fingerprint
from tl_lightning.data.base import Indices
from tl_lightning.data.cache import cache_root, cached, hashed
from tl_lightning.data.feature_store import FEATURE_FORMAT, FeatureStore, check_room, write_features
from tl_lightning.data.image_cache import in_words
from tl_lightning.data.store import FORMAT
from tl_lightning.errors import UserError

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask

log = logging.getLogger(__name__)
AUTO = "auto"
LIMITS = {"train": "limit_train_batches", "val": "limit_val_batches", "test": "limit_test_batches"}


class CachedFeatures(Callback):
    """Puts kept features in the place of a split's inputs for as long as nothing in the backbone moves.

    They are those of ``train`` and ``val`` up to the epoch in which the backbone begins to move, and of ``test`` where
    it never does.  A split whose inputs chance changes is left as it is.  Features are kept by what decides them: the
    data and what is made of them, the backbone with its weights, precision and device; all runs share them.  Of
    several processes the first to come computes them, and the others wait for the file.

    Batches hold the same samples in the same order as without; those of texts keep their like lengths, which cost
    nothing and so need no other order.  Computed in other batches, features differ by rounding: by some 1e-6 of their
    size in float32, by 1e-2 in bfloat16.

    Args:
        data: a data module; ``cache_features`` says how.
    """

    def __init__(self, data: Any) -> None:
        self._data = data
        self._asked: str | None = getattr(data, "cache_features", None)
        self._kept: dict[str, FeatureStore | None] = {}  # None: this split is left as it is
        self._facts: dict[str, dict[str, Any]] = {}
        self._why: dict[str, str] = {}
        self._epochs = 0
        self._backbone: str | None = None  # its fingerprint, while it holds still

    def facts(self) -> dict[str, Any] | None:
        """For the run record: where the features came from, their size, and why there are none of a split."""
        if self._asked is None or not (self._facts or self._why):
            return None
        return {"epochs": self._epochs, "splits": self._facts, "off": self._why}

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before any batch is read."""
        self._settle(trainer, _task(pl_module))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resume checks nothing before."""
        self._settle(trainer, _task(pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From the epoch on in which the backbone moves, all splits are read themselves."""
        self._settle(trainer, _task(pl_module))

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Kept features stand for ``test`` where the backbone never moves."""
        task = _task(pl_module)
        self._backbone = None  # a checkpoint was read
        if self._asked is not None and task.strategy.always_still:
            self._use("test", trainer, task)

    def _settle(self, trainer: Trainer, task: "TransferTask") -> None:
        if self._asked is None:
            return
        self._epochs = task.strategy.still_epochs
        if trainer.current_epoch < self._epochs:
            for split in ("train", "val"):
                self._use(split, trainer, task)
            task.strategy.reads_features = task.strategy.always_still and self._kept["train"] is not None
        elif self._asked != AUTO and not self._epochs:
            raise UserError(
                f"data.cache_features={self._asked} keeps the features of a backbone that holds still, and under"
                f" {type(task.strategy).__name__} it moves from the first epoch on: strategy=linear_probe, or"
                " data.cache_features=null"
            )
        else:
            for split in self._kept:
                self._data.part(split).stand_in = None

    def _use(self, split: str, trainer: Trainer, task: "TransferTask") -> None:
        if split not in self._kept:
            self._kept[split] = self._opened(split, trainer, task)
        store = self._kept[split]
        self._data.part(split).stand_in = partial(_as_inputs, store) if store is not None else None

    def _opened(self, split: str, trainer: Trainer, task: "TransferTask") -> FeatureStore | None:
        why = _obstacle(split, trainer, self._data, self._asked)
        if why is None:
            try:
                return self._open(split, trainer, task)
            except UserError as fault:
                if self._asked != AUTO:
                    raise
                why = str(fault)
        self._why[split] = why
        if trainer.is_global_zero:
            log.info("%s: no features are kept, the backbone reads its inputs each time (%s)", split, why)
        return None

    def _open(self, split: str, trainer: Trainer, task: "TransferTask") -> FeatureStore:
        start = time.perf_counter()
        part, kept = self._data.part(split), _kept_as(self._asked, task)
        self._backbone = self._backbone or fingerprint(task.backbone)
        key = [FORMAT, FEATURE_FORMAT, kept, part.content(), self._backbone, *_surroundings(trainer)]
        folder = cache_root(self._data.cache_dir, "features") / hashed(key)
        computed: list[Path] = []

        def build(aside: Path) -> None:
            computed.append(aside)
            size = len(part) * task.backbone.out_features * getattr(torch, kept).itemsize
            check_room(split, size, aside)
            log.info("%s: computing the features of %d rows once, %s", split, len(part), in_words(size))
            write_features(aside, _computed(self._data, split, trainer, task), kept)

        store = cached(folder, FeatureStore, build, "features")
        how = {"cache": "miss" if computed else "hit", "rows": len(store), "bytes": store.bytes, "dtype": kept}
        self._facts[split] = {**how, "seconds": round(time.perf_counter() - start, 3)}
        if trainer.is_global_zero and not computed:
            log.info("%s: features of %d rows from the cache, %s", split, len(store), in_words(store.bytes))
        return store


def _as_inputs(store: FeatureStore, positions: Indices) -> dict[str, Tensor]:
    return {FEATURES: store.of(positions)}


def _obstacle(split: str, trainer: Trainer, data: Any, asked: str | None) -> str | None:
    """Why the features of a split cannot be kept, or are not worth it."""
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        return f"{type(trainer.strategy).__name__} has no whole model on each device"
    varies = data.varies(split)
    if varies is not None:
        return f"they are changed anew in each epoch: {varies} would leave them as they are"
    limit = getattr(trainer, LIMITS[split])
    if limit == 0 or (asked == AUTO and limit not in (None, 1.0)):
        return f"trainer.{LIMITS[split]}={limit}"
    return None


def _kept_as(asked: str | None, task: "TransferTask") -> str:
    """The type on disk; a model in double precision keeps that."""
    if asked == "float16":
        return asked
    double = any(p.dtype == torch.float64 for p in task.backbone.parameters())
    return "float64" if double else "float32"


def _surroundings(trainer: Trainer) -> list[str]:
    """What of the trainer has a part in the rounding of features."""
    return [str(trainer.precision), torch.get_float32_matmul_precision(), trainer.strategy.root_device.type]


def _computed(data: Any, split: str, trainer: Trainer, task: "TransferTask") -> Iterator[tuple[Indices, Tensor]]:
    """Positions (B,) in the split with their features (B, D); neither modes nor random states are touched."""
    loader = data.whole_loader(split)
    order = loader.sampler.layout().order
    modes = {module: module.training for module in task.backbone.modules()}
    task.backbone.eval()
    done = 0
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            for batch in loader:
                converted = trainer.precision_plugin.convert_input(batch)
                inputs = trainer.strategy.batch_to_device(converted, dataloader_idx=0)[0]
                features = task.memory.outputs(lambda some: task.backbone(**some), inputs)
                yield order[done : done + len(features)], features
                done += len(features)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _task(module: LightningModule) -> "TransferTask":
    return module  # type: ignore[return-value]
