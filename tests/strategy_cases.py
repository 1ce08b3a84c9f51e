"""What each strategy should do, written by hand, and tiny backbones to see it on.

A new strategy is a YAML file in conf/strategy and one line of CASES.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.vision_transformer import VisionTransformer

from tl_lightning.backbones import Backbone, HFText, ImageBackbone
from tl_lightning.config import config_folder
from tl_lightning.heads import Linear
from tl_lightning.images import ImageSpec
from tl_lightning.objectives import MultiClass
from tl_lightning.optim import constant
from tl_lightning.strategies import FineTuning
from tl_lightning.task import Batch, TransferTask

BATCHES, LR, DECAY = 3, 0.1, 0.1
KINDS = ("bert", "gpt2", "resnet", "vit")
TEXTS = ["a fine film", "a dull film", "a good plot", "a bad plot"]
NAMES = sorted(file.stem for file in (config_folder() / "strategy").glob("*.yaml"))
Beside = Literal["nothing", "its layers", "all layers"]
Strategies = Callable[[str], FineTuning]
IN_NORM = re.compile(r"(LayerNorm|layernorm|ln_\w+|\bln|bn\d|downsample\.1)\.(weight|bias)$")  # of the KINDS


def _every(name: str) -> bool:
    return True


def _named(pattern: str) -> Callable[[str], bool]:
    return lambda name: re.search(pattern, name) is not None


@dataclass(frozen=True)
class Case:
    """What should move under a strategy.

    opened: given how many layer groups there are, how many of them, from the top, move in each epoch; its length is
    that of the training.  only: which of the parameters in them.  words: beside strategy=NAME.  kinds: of backbones.
    beside: what of the frozen weights is in train mode as well, since what moves acts there.
    """

    opened: Callable[[int], Sequence[int]]
    only: Callable[[str], bool] = _every
    words: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    beside: Beside = "nothing"


def _adapter(pattern: str, *words: str) -> Case:
    """Its own contract sees it on other backbones."""
    beside: Beside = "all layers" if pattern == "prompt_encoder" else "its layers"
    return Case(lambda n: [n, n], only=_named(pattern), words=words, kinds=("bert",), beside=beside)


def _regularizer() -> Case:
    return Case(lambda n: [n, n], kinds=("bert", "resnet"))


CASES: dict[str, Case] = {
    "full": Case(lambda n: [n, n]),
    "layer_decay": Case(lambda n: [n, n]),
    "linear_probe": Case(lambda n: [0, 0]),
    "first_layers": Case(lambda n: [n - 2, n - 2], words=("strategy.frozen=2",)),
    "bitfit": Case(lambda n: [n, n], only=_named(r"bias$")),
    "norm_only": Case(lambda n: [n, n], only=lambda name: IN_NORM.search(name) is not None),
    "head_then_top": Case(lambda n: [0, 2], words=("strategy.top=2",)),
    "gradual": Case(lambda n: range(n + 1)),
    "lp_ft": Case(lambda n: [0, n, n]),
    "unfreeze_at": Case(lambda n: [0, 1, n]),
    "lora": _adapter("lora_[AB]"),
    "rslora": _adapter("lora_[AB]"),
    "dora": _adapter("lora_([AB]|magnitude)"),
    "pissa": _adapter("lora_[AB]"),
    "adalora": _adapter("lora_[ABE]", "strategy.target_r=2", "strategy.init_r=3"),
    "ia3": _adapter("ia3_l"),
    "vera": _adapter("vera_lambda", "strategy.r=8"),
    "oft": _adapter("oft_R", "strategy.block_size=8"),
    "prompt": _adapter("prompt_encoder", "strategy.tokens=3"),
    "prefix": _adapter("prompt_encoder", "strategy.tokens=3"),
    "qlora": Case(lambda n: [n, n], kinds=()),  # needs a GPU
    "l2_sp": _regularizer(),
    "mixout": _regularizer(),
    "r_drop": _regularizer(),
    "feature_distill": _regularizer(),
    "sam": _regularizer(),
}


def _image(network: nn.Module) -> ImageBackbone:
    made = ImageBackbone(network, ImageSpec((32, 32), 32), {"name": type(network).__name__})
    made.out_features = made.measured()
    return made


def _resnet() -> ImageBackbone:
    network = ResNet(BasicBlock, [1, 1, 1, 1])
    network.fc = nn.Identity()
    return _image(network)


def _vit() -> ImageBackbone:
    network = VisionTransformer(32, 16, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, dropout=0.1)
    network.heads = nn.Identity()
    return _image(network)


def backbone(kind: str, tiny: Callable[[str], Path]) -> Backbone:
    """A tiny one of a kind: text by the fixture's name, or ``resnet``, ``vit``."""
    torch.manual_seed(0)
    made = {"resnet": _resnet, "vit": _vit}
    return made[kind]() if kind in made else HFText(str(tiny(kind)), pooling="mean")


def task_of(
    made: Backbone,
    strategy: FineTuning,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    schedule: Callable[..., LRScheduler] = constant,
) -> TransferTask:
    torch.manual_seed(0)
    return TransferTask(
        made,
        Linear(made.out_features, 2),
        MultiClass(),
        strategy,
        optimizer=partial(optimizer, lr=LR, weight_decay=DECAY),
        schedule=schedule,
        num_outputs=2,
    )


def batch(made: Backbone) -> Batch:
    numbers = torch.arange(len(TEXTS))
    if isinstance(made, HFText):
        rows = [made.preprocessor(text)["input_ids"] for text in TEXTS]
        width = min(map(len, rows))
        ids = torch.tensor([row[:width] for row in rows])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, numbers % 2, numbers
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (len(TEXTS), 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"pixels": pixels}, numbers % 2, numbers


class Batches(LightningDataModule):
    """The same batch again and again."""

    def __init__(self, made: Batch, count: int) -> None:
        super().__init__()
        self._batches = [made] * count

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self._batches, batch_size=None)  # type: ignore[arg-type]

    val_dataloader = train_dataloader


def _once(task: LightningModule) -> Iterator[tuple[str, nn.Module]]:
    """Modules but for those with two names (the embeddings that a prompt reads), which may be told two modes."""
    names = Counter(id(module) for _, module in task.named_modules(remove_duplicate=False))
    return ((name, module) for name, module in task.named_modules() if names[id(module)] == 1)


class Watch(Callback):
    """Notes modes, rates and what may move at every step, and the weights around every epoch."""

    def __init__(self) -> None:
        self.modes: list[dict[str, bool]] = []
        self.moving: list[set[str]] = []
        self.rates: list[dict[str, float]] = []
        self.moments: list[set[str]] = []
        self.changed: list[set[str]] = []
        self._before: dict[str, Tensor] = {}

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._before = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        names = {parameter: name for name, parameter in pl_module.named_parameters()}
        (optimizer,) = trainer.optimizers
        self.modes.append({name: module.training for name, module in _once(pl_module)})
        self.moving.append({name for parameter, name in names.items() if parameter.requires_grad})
        groups = optimizer.param_groups
        self.rates.append({names[parameter]: group["lr"] for group in groups for parameter in group["params"]})
        self.moments.append({name for parameter, name in names.items() if optimizer.state.get(parameter)})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        now = pl_module.state_dict()
        self.changed.append({name for name, value in now.items() if not torch.equal(self._before[name], value)})


def fit(task: TransferTask, epochs: int, *callbacks: Callback, batches: int = BATCHES, **settings: Any) -> Watch:
    watch = Watch()
    lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch, *callbacks],
        **settings,
    ).fit(task, datamodule=Batches(batch(task.backbone), batches))
    return watch


def expected(case: Case, task: TransferTask, opened: int) -> set[str]:
    """The parameters that should move while the top ``opened`` groups do, and the statistics beside them."""
    inside = {f"backbone.{name}" for group in _top(task, opened) for name in group if case.only(name)}
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    beside = {name for name, _ in task.named_buffers() if name.endswith(statistics)}
    moving = {name for name in beside if {f"{name.rpartition('.')[0]}.{kind}" for kind in ("weight", "bias")} & inside}
    return {"head.1.weight", "head.1.bias"} | inside | moving


def in_train_mode(case: Case, task: TransferTask, opened: int) -> set[str]:
    """The parameters whose modules should be in train mode then."""
    if case.beside == "nothing":
        return expected(case, task, opened)
    groups = [group for group in _top(task, opened) if case.beside == "all layers" or any(map(case.only, group))]
    return {f"backbone.{name}" for group in groups for name in group}


def _top(task: TransferTask, opened: int) -> list[list[str]]:
    groups = task.backbone.layer_groups()
    return groups[len(groups) - opened :]


def in_epochs(case: Case, task: TransferTask) -> Iterator[tuple[int, int]]:
    """Each epoch with how many groups are open."""
    return enumerate(case.opened(len(task.backbone.layer_groups())))
