"""A backbone of two dense layers on plain numbers, and a fit of it, for what can be worked out by hand."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tl_lightning.backbones.base import Backbone
from tl_lightning.objectives import MultiClass, Objective
from tl_lightning.optim import constant
from tl_lightning.strategies import FineTuning
from tl_lightning.task import Batch, TransferTask

WIDTH, OUTPUTS, LR = 6, 3, 0.1
Middle = Literal["dropout", "norm", "none"]


class Dense(Backbone):
    """(B, WIDTH) -> (B, WIDTH)."""

    def __init__(self, middle: Middle = "none") -> None:
        super().__init__()
        between = {"dropout": nn.Dropout(0.3), "norm": nn.BatchNorm1d(WIDTH), "none": nn.Identity()}[middle]
        first, last = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.layers = nn.ModuleList([first, nn.Sequential(between, nn.Tanh(), last)])
        self.out_features = WIDTH
        self.preprocessor = None
        self.identity = {"name": "dense"}

    def forward(self, **inputs: Tensor) -> Tensor:
        features = inputs["x"]
        for layer in self.layers:
            features = layer(features)
        return features


def task_of(
    strategy: FineTuning,
    middle: Middle = "none",
    objective: Objective | None = None,
    backbone: Backbone | None = None,
    lr: float = LR,
) -> TransferTask:
    torch.manual_seed(0)
    backbone = backbone or Dense(middle)
    objective = objective or MultiClass()
    outputs = 1 if objective.target == "number" else OUTPUTS
    return TransferTask(
        backbone,
        nn.Linear(backbone.out_features, outputs),
        objective,
        strategy,
        optimizer=partial(torch.optim.SGD, lr=lr, weight_decay=0.0),
        schedule=constant,
        num_outputs=outputs,
    )


def batches(count: int = 3, size: int = 8, target: str = "class") -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        x = torch.randn(size, WIDTH, generator=generator)
        classes = torch.randint(OUTPUTS, (size,), generator=generator)
        wanted = {
            "class": classes,
            "labels": nn.functional.one_hot(classes, OUTPUTS).float(),
            "number": classes.float(),
        }
        made.append(({"x": x}, wanted[target], torch.arange(size)))
    return made


def trainer_of(epochs: int = 1, callbacks: Sequence[Callback] = (), **settings: Any) -> Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=list(callbacks),
        **settings,
    )


def loader(rows: list[Batch]) -> DataLoader[Tensor]:
    return DataLoader(rows, batch_size=None)  # type: ignore[arg-type]


def fit(task: TransferTask, rows: list[Batch], epochs: int = 1, **settings: Any) -> Trainer:
    trainer = trainer_of(epochs, **settings)
    trainer.fit(task, loader(rows), loader(rows))
    return trainer


def descend(task: TransferTask, rows: list[Batch], gradients: Callable[[TransferTask, Batch], None]) -> None:
    """SGD by hand: ``gradients`` leaves them in the parameters."""
    task.train()
    for batch in rows:
        task.zero_grad()
        gradients(task, batch)
        with torch.no_grad():
            for parameter in task.parameters():
                if parameter.grad is not None:
                    parameter.sub_(LR * parameter.grad)


def same(one: nn.Module, other: nn.Module, atol: float = 1e-6) -> None:
    for (name, value), (_, wanted) in zip(one.state_dict().items(), other.state_dict().items(), strict=True):
        torch.testing.assert_close(value, wanted, atol=atol, rtol=1e-5, msg=name)
