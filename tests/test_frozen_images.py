"""Frozen means that the statistics of BatchNorm stay, bit for bit: through training, validation and a resume."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tl_lightning.backbones import Backbone, ImageBackbone, SmallResNet, Torchvision
from tl_lightning.heads import Linear
from tl_lightning.objectives import MultiClass
from tl_lightning.optim import constant
from tl_lightning.strategies import FineTuning, LinearProbe
from tl_lightning.task import TransferTask

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",  # what is asked for here
)
BACKBONES: dict[str, Callable[[], ImageBackbone]] = {
    "resnet18": lambda: Torchvision("resnet18", pretrained=False, image_size=32),
    "mobilenet_v2": lambda: Torchvision("mobilenet_v2", pretrained=False, image_size=32),
    "small_resnet": lambda: SmallResNet(width=8),
}


class TopOnly(FineTuning):
    """Freezes all but the last group for good."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return total - 1


def _task(backbone: ImageBackbone, strategy: FineTuning) -> TransferTask:
    return TransferTask(
        backbone,
        Linear(backbone.out_features, 2),
        MultiClass(),
        strategy,
        optimizer=partial(torch.optim.SGD, lr=0.1, weight_decay=0.1),
        schedule=constant,
        num_outputs=2,
    )


def _trainer(epochs: int) -> Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _loader() -> DataLoader[Tensor]:
    chance, numbers = torch.Generator().manual_seed(1), torch.arange(4)
    batches = [
        ({"pixels": torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=chance)}, numbers % 2, numbers)
        for _ in range(2)
    ]
    return DataLoader(batches, batch_size=None)  # type: ignore[arg-type]


def _statistics(backbone: Backbone) -> dict[str, Tensor]:
    """All that a forward pass in train mode would move."""
    return {name: value.clone() for name, value in backbone.named_buffers() if name not in ("shift", "scale")}


def _norms(backbone: Backbone) -> list[nn.BatchNorm2d]:
    return [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]


def _moved(backbone: Backbone, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in _statistics(backbone).items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("strategy", [LinearProbe, TopOnly, FineTuning])
def test_statistics_through_training_validation_and_resume(
    name: str, strategy: type[FineTuning], tmp_path: Path
) -> None:
    torch.manual_seed(0)
    task = _task(BACKBONES[name](), strategy())
    for norm in _norms(task.backbone):  # as of a pretrained network, unlike those of the fresh one below
        assert norm.running_mean is not None
        norm.running_mean.normal_()
    before, weights = _statistics(task.backbone), {n: p.clone() for n, p in task.backbone.named_parameters()}
    trainer = _trainer(1)
    trainer.fit(task, _loader(), _loader())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed = _task(BACKBONES[name](), strategy())
    _trainer(2).fit(resumed, _loader(), _loader(), ckpt_path=tmp_path / "last.ckpt")
    assert resumed.trainer.global_step == 4
    *below, top = resumed.backbone.layer_groups()
    modules = {n.rpartition(".")[0] for n in top}
    moving: dict[type[FineTuning], set[str]] = {
        LinearProbe: set(),
        TopOnly: {n for n in before if n.rpartition(".")[0] in modules},
    }
    assert len(before) >= 10
    assert _moved(resumed.backbone, before) == moving.get(strategy, set(before))
    changed = {n for n, p in resumed.backbone.named_parameters() if not torch.equal(p, weights[n])}
    assert bool(changed) is (strategy is not LinearProbe)
    assert changed.isdisjoint(n for group in below for n in group) is (strategy is not FineTuning)
    assert any(norm.training for norm in _norms(resumed.backbone)) is (strategy is not LinearProbe)
