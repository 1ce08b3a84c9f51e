"""Tiny backbones of every kind that adapters go into, and small fits over them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock, ResNet
from transformers import ViTConfig, ViTModel

from tl_lightning.backbones import Backbone, HFText
from tl_lightning.heads import Linear
from tl_lightning.objectives import MultiClass
from tl_lightning.optim import constant
from tl_lightning.strategies import FineTuning
from tl_lightning.task import Batch, TransferTask

Tiny = Callable[[str], Path]
LR, BATCHES, SIDE = 0.05, 3, 16
TEXT, IMAGE = ("bert", "gpt2"), ("vit", "resnet")
QUIET = (
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",
)


class TinyViT(Backbone):
    """A vision transformer of two blocks."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=SIDE,
            patch_size=8,
            initializer_range=0.2,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
        )
        self.model = ViTModel(config, add_pooling_layer=False)
        self.out_features = width
        self.identity = {}

    def forward(self, **inputs: Tensor) -> Tensor:
        features: Tensor = self.model(pixel_values=inputs["pixels"] / 255).last_hidden_state
        return features[:, 0]


class TinyResNet(Backbone):
    """The smallest ResNet: convolutions and BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ResNet(BasicBlock, [1, 1, 1, 1])
        self.model.fc = nn.Identity()
        self.out_features = 512
        self.identity = {}

    def forward(self, **inputs: Tensor) -> Tensor:
        features: Tensor = self.model(inputs["pixels"] / 255)
        return features

    def layer_groups(self) -> list[list[str]]:
        groups: dict[str, list[str]] = {}
        for name, _ in self.named_parameters():
            part = name.split(".")[1]
            groups.setdefault(part if part.startswith("layer") else "stem", []).append(name)
        return list(groups.values())


def backbone(kind: str, tiny: Tiny) -> Backbone:
    """The same weights at every call; what follows draws the same random numbers whatever was built."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        if kind in ("vit", "wide_vit"):
            return TinyViT(64 if kind == "wide_vit" else 32)
        if kind == "resnet":
            return TinyResNet()
        return HFText(str(tiny(kind)), pooling="mean")


def batch(model: Backbone) -> Batch:
    """Four samples of two classes."""
    target = torch.arange(4) % 2
    if not isinstance(model, HFText):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            pixels = torch.randint(0, 256, (4, 3, SIDE, SIDE), dtype=torch.uint8)
        return {"pixels": pixels}, target, torch.arange(4)
    texts = ["a fine film", "a dull film and a poor plot", "good", "the plot was bad"]
    inputs = model.preprocessor(texts, padding=True, return_tensors="pt")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}, target, torch.arange(4)


def task(
    kind: str, tiny: Tiny, strategy: FineTuning, optimizer: Any = torch.optim.SGD, **settings: Any
) -> TransferTask:
    """A task as a run builds it: the same head whatever the backbone drew."""
    model = backbone(kind, tiny)
    torch.manual_seed(0)
    return TransferTask(
        model,
        Linear(model.out_features, 2),
        MultiClass(),
        strategy,
        optimizer=partial(optimizer, **{"lr": LR, "weight_decay": 0.1, **settings}),
        schedule=constant,
        num_outputs=2,
    )


def trainer(*callbacks: Callback, epochs: int = 2, **more: Any) -> lightning.Trainer:
    settings = {"enable_checkpointing": False, **more}
    return lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **settings,
    )


def loader(made: TransferTask) -> DataLoader[Tensor]:
    return DataLoader([batch(made.backbone)] * BATCHES, batch_size=None)  # type: ignore[arg-type]


def fit(made: TransferTask, *callbacks: Callback, epochs: int = 2, **more: Any) -> lightning.Trainer:
    used = trainer(*callbacks, epochs=epochs, **more)
    data = loader(made)
    used.fit(made, data, data)
    return used


def prepared(made: TransferTask) -> TransferTask:
    """The task as it stands before the first step."""
    made.strategy.setup(trainer(), made, "test")
    return made


def logits(made: TransferTask) -> Tensor:
    inputs, _, _ = batch(made.backbone)
    made.eval()
    with torch.no_grad():
        outputs: Tensor = made(inputs)
    return outputs
