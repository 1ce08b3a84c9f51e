"""A batch that does not fit the memory is computed in parts; the step that comes of it stays the same."""

import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask

Batch = tuple[dict[str, Tensor], Tensor, Tensor]
log = logging.getLogger(__name__)


class Memory:
    """Cuts batches into as many parts as it takes, doubled each time memory runs out; each rank for itself.

    The gradients of the parts add up to that of the whole batch, so the global batch, the number of steps and the
    learning rate stay, and other ranks need not know: they exchange gradients as often as before.  What looks at a
    batch as a whole sees the parts: BatchNorm, and losses between the samples of a batch.

    It cannot help where earlier micro-batches of the same step (``accumulate_grad_batches``) have left their
    gradients and a backward pass breaks off among them, nor, with several processes, in the one backward pass in
    which gradients are exchanged: then the fault goes on.
    """

    def __init__(self) -> None:
        self.parts = {"train": 1, "evaluation": 1}
        self.zeroed = False  # the gradients of this step were zeroed here, not to be zeroed again
        self._begun = False  # some part has left gradients
        self._batch: tuple[Batch, bool] | None = None
        self._inside = False

    def facts(self) -> dict[str, int]:
        """Parts of a batch, where there is more than one, for the record."""
        return {name: parts for name, parts in self.parts.items() if parts > 1}

    def loss(self, task: "TransferTask", batch: Batch, first: bool) -> tuple[Tensor, Tensor]:
        """The loss () that is left to go backward from, and the whole batch's () for the log.

        Args:
            task: whose strategy has the loss.
            batch: B rows.
            first: the first micro-batch of a step: its gradients stand alone.
        """
        self._batch = (batch, first)
        while True:
            try:
                return self._attempt(task, batch, first)
            except torch.OutOfMemoryError:
                if not self._may_try_again("train", len(batch[1])) or (self._begun and not first):
                    raise
            self._halve("train", len(batch[1]))  # outside: the fault holds on to what was computed
            task.finite.forget()

    def _attempt(self, task: "TransferTask", batch: Batch, first: bool) -> tuple[Tensor, Tensor]:
        parts = list(_cut(batch, self.parts["train"]))
        self.zeroed, self._begun = len(parts) > 1 and first, False
        if self.zeroed:
            task.trainer.optimizers[0].zero_grad()
        whole: Tensor | float = 0.0
        for inputs, target, rows in parts:
            share = len(target) / len(batch[1])
            loss = task.strategy.loss(task, inputs, target)
            loss = task.finite.watch(loss * share if len(parts) > 1 else loss, rows)
            whole = loss.detach() + whole
            if rows is not parts[-1][2]:
                self._begun = True
                self._backward(task, loss / task.trainer.accumulate_grad_batches)
        assert isinstance(whole, Tensor)
        return loss, whole

    def _backward(self, task: "TransferTask", loss: Tensor) -> None:
        self._inside = True
        try:
            task.trainer.strategy.backward(loss, None)
        finally:
            self._inside = False

    def backward(self, task: "TransferTask", step: Callable[[], None]) -> None:
        """The backward pass of the loss that was left; where it runs out of memory, all again in parts."""
        try:
            step()
            return
        except torch.OutOfMemoryError:
            assert self._batch is not None
            batch, first = self._batch
            alone = task.trainer.world_size == 1
            if self._inside or not (alone and first and self._may_try_again("train", len(batch[1]))):
                raise
        self._halve("train", len(batch[1]))
        task.finite.forget()
        with task.trainer.precision_plugin.forward_context():
            loss, _ = self.loss(task, batch, first)
        self._backward(task, loss / task.trainer.accumulate_grad_batches)

    def outputs(self, forward: Callable[[dict[str, Tensor]], Tensor], inputs: dict[str, Tensor]) -> Tensor:
        """Outputs (B, ...) of an evaluation batch."""
        size = len(next(iter(inputs.values())))
        while True:
            try:
                parts = _cut((inputs, torch.empty(size), torch.empty(size)), self.parts["evaluation"])
                return torch.cat([forward(part) for part, _, _ in parts])
            except torch.OutOfMemoryError:
                if not self._may_try_again("evaluation", size):
                    raise
            self._halve("evaluation", size)

    def _may_try_again(self, name: str, size: int) -> bool:
        return self.parts[name] < size

    def _halve(self, name: str, size: int) -> None:
        self.parts[name] *= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        what = "a batch of the training" if name == "train" else "an evaluation batch"
        log.warning(
            "Out of memory: from now on %s is computed in %d parts, of %d rows at most here; the steps, the batch that"
            " each stands for and the learning rate stay (BatchNorm, where it is trained, sees the parts).",
            *(what, self.parts[name], -(-size // self.parts[name])),
        )


def _cut(batch: Batch, parts: int) -> Iterator[Batch]:
    """At most ``parts`` batches of almost the same size, in order."""
    if parts == 1:
        yield batch
        return
    inputs, target, rows = batch
    parts = min(parts, len(target))
    ends = [-(-len(target) * part // parts) for part in range(parts + 1)]
    for here in map(slice, ends, ends[1:]):
        kept: dict[str, Any] = {name: values[here] for name, values in inputs.items()}
        yield kept, target[here], rows[here]
