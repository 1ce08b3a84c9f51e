"""BatchNorm statistics of weights that no training step has seen."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def moving_norms(module: nn.Module) -> list[_BatchNorm]:
    """The BatchNorm layers that train and keep statistics; those of a frozen part keep the pretrained ones."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    return [norm for norm in norms if any(p.requires_grad for p in norm.parameters())]


def refresh(trainer: Trainer, task: LightningModule, batches: int) -> None:
    """Measure the statistics of the moving BatchNorm layers anew, on at most ``batches`` training batches.

    The plain mean over batches, as ``torch.optim.swa_utils.update_bn`` takes it, but without dropout.  The random
    states and the training loader's place stay as they are.  Several processes measure a part each, and average.
    """
    norms = moving_norms(task)
    if not norms:
        return
    with _measuring(norms), isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
        for inputs in islice(_inputs(trainer), batches):
            task(inputs)
    for norm in norms:
        _average_over_ranks(norm)


@contextmanager
def _measuring(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Have the layers take the mean over the block's batches.

    What they count is put back into the tensor that stands there: one made here would, in a validation by itself, be
    of inference mode, and nothing could be loaded into it afterwards.
    """
    held = [(norm.momentum, norm.training, _counted(norm)) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    try:
        yield
    finally:
        for norm, (momentum, training, counted) in zip(norms, held, strict=True):
            norm.momentum, norm.training = momentum, training
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.fill_(counted)


def _counted(norm: _BatchNorm) -> int:
    return 0 if norm.num_batches_tracked is None else int(norm.num_batches_tracked)


def _inputs(trainer: Trainer) -> Iterator[dict[str, torch.Tensor]]:
    """Inputs of training batches from a loader of its own where there is a data module."""
    data = getattr(trainer, "datamodule", None)
    for batch in data.train_dataloader() if data is not None else trainer.train_dataloader or ():
        converted = trainer.precision_plugin.convert_input(batch)
        yield trainer.strategy.batch_to_device(converted, dataloader_idx=0)[0]


def _average_over_ranks(norm: _BatchNorm) -> None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    for statistic in (norm.running_mean, norm.running_var):
        if statistic is not None:
            torch.distributed.all_reduce(statistic)
            statistic /= torch.distributed.get_world_size()
