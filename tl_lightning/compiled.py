"""The backbone compiled by torch.compile: once for each shape of a batch, before the clock of the training starts."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from tl_lightning.errors import UserError, first_line
from tl_lightning.throughput import Throughput

Word = Literal[True, False, "auto", "inductor", "cuda_graphs", "aot_eager", "eager"]
MOST_SHAPES = 64  # at up to a minute each
log = logging.getLogger(__name__)


class Compiled(Callback):
    """Compiles the backbone for training, and for nothing else: evaluation comes in too many shapes.

    Parameters keep their names, so checkpoints are the same as without.  Sums are taken in another order, so results
    are not: a run with it is another run.  Each shape of an epoch's batches is compiled on a real batch before the
    first step, and anew where a strategy changes what moves; random state, buffers and gradients stay as they were.

    Args:
        word: True or ``inductor``: torch's own compiler.  ``cuda_graphs``: the same, with each shape recorded as a CUDA
            graph.  ``aot_eager`` and ``eager``: no compiler, to look for its faults.  ``auto``: torch's own on a GPU
            where an epoch has few shapes (images, or ``data.shapes``), else none.
    """

    def __init__(self, word: Word = True) -> None:
        self.word = word
        self.shapes = self.graphs = self.later = 0  # compiled before the first step, and behind the warm-up
        self.seconds = 0.0
        self._moving: list[bool] = []  # what moved when it was compiled
        self._graphs = 0  # in this process when they were last counted
        self._call: Any = None

    def facts(self) -> dict[str, Any] | None:
        """For the record; None where nothing was compiled."""
        if not self.shapes:
            return None
        counts = {"shapes": self.shapes, "graphs": self.graphs, "graphs_in_mid_training": self.later}
        return {"backend": self.backend, **counts, "seconds": round(self.seconds, 1)}

    @property
    def backend(self) -> str:
        """What compiles."""
        return "inductor" if self.word in (True, "auto") else str(self.word)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile every shape, behind the strategy, which has frozen what holds still.

        Raises:
            UserError: there are too many shapes, or it cannot be compiled here.
        """
        batches = one_of_each(trainer.train_dataloader)
        if self._wanted(trainer, len(batches)):
            _room_for(8 * len(batches))
            self._compile(pl_module.backbone)  # type: ignore[arg-type]
            self._new()
            self._warm_up(trainer, pl_module, batches)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compile anew where a strategy has changed what moves."""
        if self._call is not None and self._moving != _moving(pl_module):
            self._warm_up(trainer, pl_module, one_of_each(trainer.train_dataloader))

    def on_train_batch_start(self, *_: Any) -> None:
        """What the step before left in a CUDA graph's memory is no longer needed."""
        if self.word == "cuda_graphs":
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what was compiled behind the warm-up, while the clock ran: there should be nothing."""
        found = self._new() if self._call is not None else 0
        self.later += found
        if found:
            log.warning("compile=%s: %d graphs were compiled in mid-training", self.word, found)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Evaluate as it is."""
        _switch(pl_module, None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Train on."""
        if trainer.state.fn == "fit":
            _switch(pl_module, self._call)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What follows comes in too many shapes."""
        _switch(pl_module, None)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """What follows comes in too many shapes."""
        _switch(pl_module, None)

    def _wanted(self, trainer: Trainer, shapes: int) -> bool:
        on_gpu = trainer.strategy.root_device.type == "cuda"
        loader: Any = trainer.train_dataloader
        fixed = getattr(loader.dataset, "edges", ()) is not None  # without edges the lengths of texts are free
        if self.word == "auto":
            return on_gpu and fixed and shapes <= MOST_SHAPES
        if not fixed or shapes > MOST_SHAPES:
            raise UserError(
                f"compile={str(self.word).lower()}: each shape of a batch is compiled, and here there may be very many:"
                " type data.shapes=16 (texts are padded to one of 16 lengths), or compile=false"
            )
        if self.word == "cuda_graphs" and not on_gpu:
            raise UserError("compile=cuda_graphs needs a CUDA GPU: type compile=true or compile=false")
        return True

    def _compile(self, backbone: nn.Module) -> None:
        graphs = self.word == "cuda_graphs"
        mode = "reduce-overhead" if graphs else None
        backbone.compile(backend="inductor" if graphs else self.backend, mode=mode, dynamic=False)
        self._call = backbone._compiled_call_impl

    def _warm_up(self, trainer: Trainer, module: LightningModule, batches: list[list[int]]) -> None:
        if trainer.train_dataloader.dataset.stand_in is not None:  # type: ignore[union-attr]
            return  # the batches bring what a frozen backbone made of them before: it does not run
        start = time.perf_counter()
        log.info("compile=%s: compiling the backbone for %d shapes", str(self.word).lower(), len(batches))
        try:
            with _unchanged(module.backbone):  # type: ignore[arg-type]
                for positions in batches:
                    _pass(trainer, module, positions)
        except RuntimeError as fault:  # dynamo's and inductor's faults are such
            advice = "type compile=false"
            raise UserError(f"compile: the backbone cannot be compiled here ({first_line(fault)}): {advice}") from fault
        self.shapes, self._moving = len(batches), _moving(module)
        self.graphs += self._new()
        self.seconds += time.perf_counter() - start
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Throughput):
                callback.start_clock(trainer)

    def _new(self) -> int:
        """How many graphs were compiled since this was last asked."""
        from torch._dynamo.utils import counters  # a second of imports

        before, self._graphs = self._graphs, counters["stats"]["unique_graphs"]
        return self._graphs - before


def one_of_each(loader: Any) -> list[list[int]]:
    """The rows of one batch of each shape that an epoch of our loader has, the largest first."""
    sampler = loader.sampler
    order, starts, ends = sampler.layout()
    widths = sampler.padding().widths.tolist() if hasattr(sampler, "padding") else [1] * len(starts)
    shapes = zip((ends - starts).tolist(), widths, starts.tolist(), strict=True)
    found = {(rows, width): start for rows, width, start in shapes}
    largest = sorted(found, key=lambda shape: shape[0] * shape[1], reverse=True)
    return [order[found[shape] : found[shape] + shape[0]].tolist() for shape in largest]


def _pass(trainer: Trainer, module: Any, positions: list[int]) -> None:
    """Forward and backward, as a training step does them, but no parameter gets a gradient."""
    batch = trainer.train_dataloader.dataset[positions]  # type: ignore[union-attr]
    if isinstance(batch, UserError):
        raise batch
    inputs = trainer.strategy.batch_to_device(batch, dataloader_idx=0)[0]
    with trainer.precision_plugin.train_step_context():
        features = module.backbone(**inputs)
    moving = [p for p in module.backbone.parameters() if p.requires_grad]
    if features.requires_grad and moving:
        torch.autograd.grad(features.float().sum(), moving, allow_unused=True)


@contextmanager
def _unchanged(backbone: nn.Module) -> Iterator[None]:
    """Random states and buffers (BatchNorm's statistics) come back as they were."""
    kept = {name: buffer.clone() for name, buffer in backbone.named_buffers()}
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield
    with torch.no_grad():
        for name, buffer in backbone.named_buffers():
            buffer.copy_(kept[name])


def _moving(module: LightningModule) -> list[bool]:
    return [p.requires_grad for p in module.backbone.parameters()]  # type: ignore[union-attr]


def _switch(module: LightningModule, call: Any) -> None:
    module.backbone._compiled_call_impl = call  # type: ignore[union-attr]  # there is no public way back


def _room_for(graphs: int) -> None:
    """Dynamo keeps so many graphs of one function; beyond, it would stop compiling in silence."""
    import torch._dynamo.config as limits

    limits.recompile_limit = max(limits.recompile_limit, graphs)
    limits.accumulated_recompile_limit = max(limits.accumulated_recompile_limit, 4 * graphs)
