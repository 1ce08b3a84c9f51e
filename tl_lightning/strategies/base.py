"""The contract of a fine-tuning strategy; as it stands, it trains everything."""

from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn

from tl_lightning.errors import UserError
from tl_lightning.length import ENDLESS, epochs_ahead
from tl_lightning.parts import part
from tl_lightning.ranges import PositiveUpTo1
from tl_lightning.strategies.regularizer import Regularizer

if TYPE_CHECKING:
    from tl_lightning.task import TransferTask


class Phase(NamedTuple):
    """A part of the training with a learning-rate schedule of its own and fresh optimizer moments.

    It begins with the epoch ``start`` and lasts until the next one does, the last one until the training's real end
    (``max_epochs`` or ``max_steps``).  ``lr``: in place of the optimizer's own.
    """

    start: int
    lr: float | None = None


@part("strategy")
class FineTuning(Callback):
    """Says what may move: what changes for good, what holds still in an epoch, and how fast the rest learns.

    A method overrides ``edit``, ``frozen_groups``, ``phases``, ``loss`` or ``keeps``.  Frozen means two things: no
    gradient, and eval mode (otherwise BatchNorm statistics drift and dropout stays on).  Everything that will ever
    train is in the optimizer from the start.  A training that ends before the last change begins is refused, and
    early stopping waits for it.

    Args:
        layer_decay: the learning rate of a layer ``d`` steps below the head is multiplied by ``layer_decay ** d``.
        regularizer: what it adds to the loss or to the step; any strategy under which the backbone moves takes one.
    """

    sooner = "strategy's epochs"
    """What to set lower where the training is too short for the method."""
    probes = False
    """Whether the head alone is trained, from the first step to the last."""

    def __init__(self, layer_decay: PositiveUpTo1 = 1.0, regularizer: Regularizer | None = None) -> None:
        self.layer_decay = layer_decay
        self.regularizer = regularizer
        self.settled_at = 0  # the epoch with which the last change begins; known once a fit is set up
        self.still_epochs = 0  # in so many epochs, from the first on, nothing in the backbone moves; known then too
        self.always_still = False
        self.reads_features = False  # and its features come from the cache
        self.pretrained: tuple[nn.Parameter, ...] = ()  # the backbone's, as they were before the edit
        self._edited = False
        self._movable: frozenset[str] = frozenset()
        self._epochs = ENDLESS
        self._phase = 0

    def edit(self, task: "TransferTask") -> None:
        """Change the model for good (adapters, parameters that never train), before the optimizer exists."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        """How many of the backbone's ``total`` layer groups, counted from the input, hold still in ``epoch``."""
        return 0

    def phases(self, epochs: int) -> list[Phase]:
        """The parts of a training of ``epochs`` epochs; the first one starts with epoch 0."""
        return [Phase(0)]

    def keeps(self, name: str) -> bool:
        """Whether a checkpoint holds this entry of the task's state dict; the others are the pretrained weights."""
        return True

    def knows(self, name: str) -> bool:
        """Whether a checkpoint may do without this entry, since it is as it was pretrained."""
        return not self.keeps(name)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether this parameter gets weight decay: matrices do, vectors (biases, norms) do not."""
        return parameter.ndim > 1

    def loss(self, task: "TransferTask", inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        """The training loss () of one batch, with what the regularizer adds."""
        if self.regularizer is not None:
            return self.regularizer.loss(task, inputs, target)
        return task.criterion(inputs, target)

    def last_change(self, total: int) -> int:
        """The epoch with which the last change of what moves, or the last phase, begins."""
        plan = [self.frozen_groups(epoch, total) for epoch in range(ENDLESS)]
        changes = [epoch for epoch in range(1, ENDLESS) if plan[epoch] != plan[epoch - 1]]
        return max(self.phases(self._epochs)[-1].start, *changes, 0)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Edit once, then leave out of the optimizer what will never train.

        Raises:
            UserError: the method does not fit the backbone or the length of the training.
        """
        task = _task(pl_module)
        if stage == "fit":
            self._epochs = epochs_ahead(trainer)
            self.settled_at = self.last_change(_groups(task))
            self._check_length(trainer)
            self.still_epochs = self._still(_groups(task))
            self.always_still = self.still_epochs == self._epochs
        first, self._edited = not self._edited, True
        if first:
            self.pretrained = tuple(task.backbone.parameters())
            self.edit(task)
            self._movable = frozenset(n for n, p in task.backbone.named_parameters() if p.requires_grad)
        self._freeze(task, min(self._plan(_groups(task))))
        if first and self.regularizer is not None:
            self.regularizer.prepare(task, trainer)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse a schedule of freezing under a DDP that waits for the gradients of all parameters."""
        changes = len(set(self._plan(_groups(_task(pl_module))))) > 1
        strategy = trainer.strategy
        if changes and isinstance(strategy, DDPStrategy) and not strategy._ddp_kwargs.get("find_unused_parameters"):
            raise UserError(
                f"{type(self).__name__} freezes and unfreezes during training, which plain DDP cannot follow:"
                " trainer.strategy=ddp_find_unused_parameters_true"
            )

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resume in mid-epoch does not come through ``on_train_epoch_start``."""
        self._begin_epoch(trainer, _task(pl_module))

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze and unfreeze for this epoch."""
        self._begin_epoch(trainer, _task(pl_module))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Let the regularizer change the gradients."""
        if self.regularizer is not None:
            self.regularizer.before_step(_task(pl_module))

    def state_dict(self) -> dict[str, Any]:
        """The phase that the optimizer's moments belong to."""
        return {"phase": self._phase}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The phase that the optimizer's moments belong to."""
        self._phase = state_dict["phase"]

    def _begin_epoch(self, trainer: Trainer, task: "TransferTask") -> None:
        epoch = trainer.current_epoch
        self._freeze(task, self.frozen_groups(epoch, _groups(task)))
        phase = bisect_right([phase.start for phase in self.phases(self._epochs)], epoch) - 1
        if phase != self._phase:
            self._phase = phase
            for optimizer in trainer.optimizers:
                optimizer.state.clear()

    def _check_length(self, trainer: Trainer) -> None:
        needed = self.settled_at + 1
        if needed > self._epochs and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            steps = " and a larger trainer.max_steps" if trainer.max_steps > 0 else ""
            raise UserError(
                f"{type(self).__name__} needs {needed} epochs and the training has {self._epochs}:"
                f" trainer.max_epochs={needed}{steps}, or lower {self.sooner}"
            )

    def _plan(self, total: int) -> list[int]:
        return [self.frozen_groups(epoch, total) for epoch in range(self._epochs)]

    def _still(self, total: int) -> int:
        plan = self._plan(total)
        return next((epoch for epoch, frozen in enumerate(plan) if frozen < total), len(plan))

    def _freeze(self, task: "TransferTask", frozen: int) -> None:
        parameters = dict(task.backbone.named_parameters())
        for depth, group in enumerate(task.backbone.layer_groups()):
            for name in group:
                moves = depth >= frozen and name in self._movable
                parameters[name].requires_grad_(moves)
                if not moves:
                    parameters[name].grad = None
        for module, mode in _modes(task.backbone, True):
            module.training = mode


def _groups(task: "TransferTask") -> int:
    return len(task.backbone.layer_groups())


def _modes(module: nn.Module, inherited: bool) -> Iterator[tuple[nn.Module, bool]]:
    """Each module with its mode: train where a parameter in it moves; without parameters, as what holds it."""
    parameters = list(module.parameters())
    mode = any(p.requires_grad for p in parameters) if parameters else inherited
    yield module, mode
    for child in module.children():
        yield from _modes(child, mode)


def _task(module: LightningModule) -> "TransferTask":
    return module  # type: ignore[return-value]  # the task owns its strategy; importing it here would be a circle
