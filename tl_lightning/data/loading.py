"""A loader whose place in the data can be saved and taken up again, exactly."""

import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import torch
from torch.utils.data import DataLoader

from tl_lightning.data.base import Batch
from tl_lightning.data.batching import SeededBatchSampler
from tl_lightning.data.part import Part
from tl_lightning.errors import UserError


class ExactLoader(DataLoader[Batch]):
    """A loader whose place in the data can be saved and taken up again, exactly.

    The order depends on (seed, epoch) alone, so the state is the epoch and how many batches were handed out;
    those are not read again after a resume. Every pass over the loader is the next epoch, unless the
    sampler's epoch was set meanwhile (Lightning does) or nothing was taken from the last one. The dataset is told
    the epoch before its first batch, in worker processes too. Build it with `exact_loader`.
    """

    waited = 0.0
    """Seconds that whoever asked for batches has waited for them."""

    _epoch = 0
    _handed_out = 0

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        # A generator, so all this happens at the first batch: Lightning calls iter() early, and only then
        # tells the sampler which epoch it is.
        sampler = cast("SeededBatchSampler", self.sampler)
        if sampler.epoch == self._epoch and self._handed_out and not self._resumed:
            self._advance(sampler)
        if sampler.epoch != self._epoch:
            self._epoch, self._handed_out = sampler.epoch, 0
        self._resumed = False
        sampler.start = self._handed_out
        cast("Part", self.dataset).epoch = self._epoch  # workers, which start now, get a copy
        for batch in self._timed():
            if isinstance(batch, UserError):
                raise batch
            self._handed_out += 1
            yield batch

    def _timed(self) -> Iterator[Batch]:
        start = time.perf_counter()
        for batch in super().__iter__():
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    _resumed = False

    def _advance(self, sampler: SeededBatchSampler) -> None:
        sampler.set_epoch(self._epoch + 1)

    def state_dict(self) -> dict[str, int]:
        """The epoch, and the batches of it that were handed out."""
        return {"epoch": self._epoch, "batches": self._handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next pass goes on behind the batches of the state; behind a whole epoch, with the next one."""
        sampler = cast("SeededBatchSampler", self.sampler)
        self._epoch, self._handed_out = state["epoch"], state["batches"]
        sampler.set_epoch(self._epoch)
        self._resumed = self._handed_out < len(sampler)


def exact_loader(dataset: Part, sampler: SeededBatchSampler, *, num_workers: int, pin_memory: bool) -> ExactLoader:
    """A loader over a dataset that takes a list of positions and gives a whole batch.

    A UserError in place of a batch is raised as it is; raised in a worker process, it would come with that
    process's traceback in its message.
    """
    # batch_size=None: the sampler's lists go to the dataset as they are, and Lightning finds the sampler
    # (and its set_epoch) where it looks for it.
    return ExactLoader(
        dataset,
        batch_size=None,
        sampler=sampler,
        collate_fn=cast("Callable[[Any], Any]", _as_it_is),
        num_workers=num_workers,
        pin_memory=pin_memory,
        # A loader draws a seed at each pass; from the global state, a resume would go on with other dropout.
        generator=torch.Generator(),
    )


def _as_it_is(batch: Batch) -> Batch:
    return batch
