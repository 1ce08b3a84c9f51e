"""Model soups: the mean of a run's best checkpoints."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from tl_lightning.callbacks import Best, Mode, moved_to
from tl_lightning.checkpoints import read_checkpoint
from tl_lightning.norms import refresh
from tl_lightning.parts import part
from tl_lightning.ranges import Count, Range
from tl_lightning.ranks import together
from tl_lightning.task import TransferTask

State = dict[str, Tensor]


@part("average")
class Soup(ModelCheckpoint):
    """Averages the ``k`` best checkpoints of the run by ``val`` when the fit is over (Wortsman et al., 2022).

    arXiv:2203.05482, with the checkpoints of one run in place of several runs.  The soup becomes ``best.ckpt``, which
    is tested; the checkpoints it was made of are removed after that.

    Args:
        monitor: the metric of ``val``.
        mode: whether less or more of it is better.
        folder: of the checkpoints.
        k: how many at most; each is a file of weights until the run is over.
        greedy: add them from the best on, each only while the metric on ``val`` does not get worse.
        norm_batches: at most so many training batches to measure BatchNorm statistics on.
    """

    def __init__(
        self,
        monitor: str,
        mode: Mode,
        folder: Path,
        k: Annotated[int, Range(ge=2)] = 5,
        greedy: bool = False,
        norm_batches: Count = 200,
    ) -> None:
        super().__init__(
            dirpath=folder,
            filename="soup-{step}",
            monitor=monitor,
            mode=mode,
            save_top_k=k,
            save_weights_only=True,
            save_on_train_epoch_end=False,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self.greedy = greedy
        self.norm_batches = norm_batches
        self._ranked: list[Path] = []  # the best first
        self._used: list[Path] = []
        self._tried: list[float] = []
        self._tasting = False

    def finish(self, trainer: Trainer, task: TransferTask, data: LightningDataModule, best: Best | None) -> None:
        """Make the soup, leave it in the model and in ``best.ckpt``, and its metrics with ``best``.

        Where it cannot be made, both stay as they were.
        """
        scores = {Path(path): float(score) for path, score in self.best_k_models.items()}
        self._ranked = sorted(scores, key=lambda path: scores[path], reverse=self.mode == "max")
        if not self._ranked:
            return
        with self._in_private(trainer), _unspoilt(task) if best is None else nullcontext():
            state, metrics = self._cooked(trainer, task, data)
        _fill(task, state)
        if best is not None:
            best.replace(trainer, metrics)

    def _cooked(
        self, trainer: Trainer, task: TransferTask, data: LightningDataModule
    ) -> tuple[State, dict[str, float]]:
        self._used = self._ranked[:1] if self.greedy else list(self._ranked)
        state, metrics = self._taste(self._used, trainer, task, data)
        for path in self._ranked[1:] if self.greedy else ():
            other, found = self._taste([*self._used, path], trainer, task, data)
            if self._no_worse(found, metrics):
                self._used, state, metrics = [*self._used, path], other, found
        return state, metrics

    def _taste(
        self, paths: Sequence[Path], trainer: Trainer, task: TransferTask, data: LightningDataModule
    ) -> tuple[State, dict[str, float]]:
        """The mean of ``paths``, with its BatchNorm statistics, and its metrics on ``val``."""
        _fill(task, together(trainer, lambda: mean(paths)))
        trainer.validate(task, datamodule=data, verbose=False)
        metrics = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        self._tried.append(metrics[str(self.monitor)])
        state = {n: v.detach().cpu().clone() for n, v in task.state_dict().items() if task.strategy.keeps(n)}
        return state, metrics

    def _no_worse(self, found: dict[str, float], before: dict[str, float]) -> bool:
        new, old = (metrics[str(self.monitor)] for metrics in (found, before))
        return new >= old if self.mode == "max" else new <= old

    @contextmanager
    def _in_private(self, trainer: Trainer) -> Iterator[None]:
        """These validations are no points of the curves."""
        loggers, trainer.loggers = trainer.loggers, []
        self._tasting = True
        try:
            yield
        finally:
            trainer.loggers, self._tasting = loggers, False

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """No step has seen these weights, so no BatchNorm statistics are theirs."""
        if self._tasting:
            refresh(trainer, pl_module, self.norm_batches)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Where the run directory has moved, its checkpoints have too."""
        super().load_state_dict(moved_to(Path(str(self.dirpath)), state_dict))

    def facts(self) -> dict[str, Any]:
        """For the run record: the steps of the checkpoints, the best first, and what each tried soup reached."""
        return {
            "method": "greedy_soup" if self.greedy else "soup",
            "candidates": [_step(path) for path in self._ranked],
            "ingredients": [_step(path) for path in self._used],
            f"{self.monitor} of the soups tried": self._tried,
            f"{self.monitor} of the best checkpoint": _number(self.best_model_score),
        }

    def clean(self) -> None:
        """Remove what the soup was made of, and what a killed process left of it."""
        for path in Path(str(self.dirpath)).glob("soup-*.ckpt"):
            path.unlink(missing_ok=True)


def mean(paths: Sequence[Path]) -> State:
    """The mean of the weights in checkpoints; whole numbers are those of the first."""
    total: State = {}
    for path in paths:
        for name, value in read_checkpoint(path, mmap=True)["state_dict"].items():
            if not value.is_floating_point():
                total.setdefault(name, value)
            else:
                total[name] = total[name] + value.double() if name in total else value.double()
    return {n: (value / len(paths)).float() if value.dtype == torch.float64 else value for n, value in total.items()}


@contextmanager
def _unspoilt(task: TransferTask) -> Iterator[None]:
    """Bring the weights back where the block fails: no checkpoint of the best will be read for the test."""
    before = {n: v.detach().cpu().clone() for n, v in task.state_dict().items() if task.strategy.keeps(n)}
    try:
        yield
    except Exception:
        _fill(task, before)
        raise


def _fill(task: TransferTask, state: State) -> None:
    checkpoint: dict[str, Any] = {"state_dict": dict(state)}
    task.on_load_checkpoint(checkpoint)  # adds what checkpoints leave out
    task.load_state_dict(checkpoint["state_dict"])


def _step(path: Path) -> int:
    return int(path.stem.rpartition("-")[2])


def _number(score: Tensor | None) -> float | None:
    return None if score is None else float(score)
