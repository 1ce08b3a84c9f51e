"""What a training gets done in its time, measured while it runs; no step waits for it."""

import math
import time
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from tl_lightning.backbones.base import FEATURES
from tl_lightning.flops import forward_flops, multiplied, passes, peak_flops
from tl_lightning.joint import means

CLOCKED = ("samples_per_second", "tokens_per_second", "data_wait", "step_p50", "step_p95", "flops_per_second", "mfu")
"""The names, after train/, of what differs from run to run."""


class Throughput(Callback):
    """Measures samples, real tokens and operations per second, steps, and the share of time spent waiting for data.

    The totals of the fit so far are logged at each epoch's end and stand in the record.  Validation is not training
    time.  Tokens are known from the sampler's plan of the epoch, so nothing is read back from a GPU, which is waited
    for once an epoch.  A step lasts from one batch's end to the next's, in seconds: on a GPU what the host sees, which
    follows the device once its queue is full.
    """

    def __init__(self) -> None:
        self.first_step: float | None = None  # time.time() when the first batch began
        self.samples = 0
        self.seconds = self.waited = 0.0
        self.tokens = self.padded = 0
        self.flops = 0.0
        self.peak: float | None = None
        self._steps = array("d")
        self._per_sample: int | None = None  # operations of a forward pass, where there are no tokens
        self._begin = self._waited_before = self._last = 0.0
        self._batches: list[int] = []  # numbers of the first and the last one since the clock started
        self._samples = 0
        self._kept = False  # batches bring features: no token is read, and the backbone computes nothing

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resume in mid-epoch does not come through ``on_train_epoch_start``."""
        root = trainer.strategy.root_device
        if root.type == "cuda":
            one = peak_flops(torch.cuda.get_device_name(root), str(trainer.precision))
            self.peak = one and one * trainer.world_size
        self.start_clock(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self.start_clock(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note when training really began; count what a sample costs where a GPU's peak is there to compare with."""
        if self.first_step is None:
            self.first_step = time.time()
        self._kept = FEATURES in batch[0]
        if self.peak and self._per_sample is None and "input_ids" not in batch[0] and not self._kept:
            one = {name: values[:1] for name, values in batch[0].items()}
            self._per_sample = forward_flops(pl_module.backbone, one)  # type: ignore[arg-type]
        if not self._batches:
            self._batches = [batch_idx, batch_idx]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count."""
        now = time.perf_counter()
        if self._last:
            self._steps.append(now - self._last)
        self._last = now
        self._samples += len(batch[1])
        self._batches[1] = batch_idx

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validation is not training time."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._stop_clock(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.start_clock(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log."""
        self._stop_clock(trainer, pl_module)
        padding = _padding(trainer)
        waste = padding.waste if padding is not None and not self._kept else None  # of the epoch, whichever steps of it
        found = {**self.facts(), "padding": waste}
        # The processes need not know the same: one that does not know a value makes it NaN for all.
        agreed = means(trainer, {name: math.nan if value is None else value for name, value in found.items()})
        pl_module.log_dict({f"train/{name}": value for name, value in agreed.items() if not math.isnan(value)})

    def facts(self) -> dict[str, float | None]:
        """What was measured so far, over all processes; None for what is not known here."""
        seconds = max(self.seconds, 1e-9)
        p50, p95 = np.quantile(self._steps, (0.5, 0.95)).tolist() if self._steps else (None, None)
        found = {
            "samples_per_second": self.samples / seconds,
            "tokens_per_second": self.tokens / seconds if self.tokens else None,
            "data_wait": self.waited / seconds,
            "step_p50": p50,
            "step_p95": p95,
            "flops_per_second": self.flops / seconds if self.flops else None,
            "mfu": self.flops / seconds / self.peak if self.peak and self.flops else None,
        }
        return {name: found[name] for name in CLOCKED}

    def record(self) -> dict[str, Any]:
        """The same for the run record, with what was padded."""
        padding = self.padded / self.tokens if self.tokens else None
        return {**_rounded(self.facts()), "padding": padding and round(padding, 4), "steps": len(self._steps)}

    def start_clock(self, trainer: Trainer) -> None:
        """What went before in this epoch is no training time."""
        self._begin, self._last = time.perf_counter(), 0.0
        self._waited_before = _waited(trainer)
        self._samples, self._batches = 0, []

    def _stop_clock(self, trainer: Trainer, task: Any) -> None:
        if not self._batches:
            return
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds += time.perf_counter() - self._begin
        self.waited += _waited(trainer) - self._waited_before
        samples, padding = self._samples * trainer.world_size, _padding(trainer)
        self.samples += samples
        if self._kept:
            pass
        elif padding is not None:
            taken = slice(self._batches[0], self._batches[1] + 1)
            tokens = int(padding.real[taken].sum()) * trainer.world_size
            self.tokens += tokens
            self.padded += int(padding.padded[taken].sum()) * trainer.world_size
            self.flops += passes(task) * 2 * multiplied(task) * tokens
        elif self._per_sample is not None:
            self.flops += passes(task) * self._per_sample * samples
        self.start_clock(trainer)


def _waited(trainer: Trainer) -> float:
    return float(getattr(trainer.train_dataloader, "waited", 0.0))


def _padding(trainer: Trainer) -> Any:
    sampler = getattr(trainer.train_dataloader, "sampler", None)
    return sampler.padding() if sampler is not None and hasattr(sampler, "padding") else None


def _rounded(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: value if value is None else float(f"{value:.4g}") for name, value in values.items()}
