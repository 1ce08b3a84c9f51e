"""One contract for all strategies: exactly what should move moves, and frozen means eval."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from tl_lightning.backbones import HFText
from tl_lightning.errors import UserError
from tl_lightning.heads import Linear
from tl_lightning.objectives import MultiClass
from tl_lightning.optim import constant
from tl_lightning.strategies import FineTuning, LinearProbe
from tl_lightning.task import Batch, TransferTask

Tiny = Callable[[str], Path]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",  # what is asked for here
)
BATCHES, LR = 3, 0.1


class TopOnly(FineTuning):
    """Freezes all but the last group for good."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return total - 1


class Gradual(FineTuning):
    """One more group each epoch, the top first (Howard and Ruder, 2018)."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return max(0, total - epoch)


class BiasOnly(FineTuning):
    """Changes for good which parameters may move."""

    def edit(self, task: TransferTask) -> None:
        for name, parameter in task.backbone.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


# strategy -> which backbone parameters move over two epochs, given (name, group, groups)
MOVES: dict[str, tuple[Callable[[], FineTuning], Callable[[str, int, int], bool]]] = {
    "full": (FineTuning, lambda *_: True),
    "layer_decay": (lambda: FineTuning(layer_decay=0.5), lambda *_: True),
    "linear_probe": (LinearProbe, lambda *_: False),
    "top_only": (TopOnly, lambda _, group, groups: group == groups - 1),
    "gradual": (Gradual, lambda _, group, groups: group == groups - 1),
    "bias_only": (BiasOnly, lambda name, *_: name.endswith("bias")),
}


class Watch(Callback):
    """Notes modes, gradients and rates at every step."""

    def __init__(self) -> None:
        self.modes: list[dict[str, bool]] = []
        self.moving: list[set[str]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        self.modes.append({name: module.training for name, module in pl_module.named_modules()})
        self.moving.append({name for name, p in pl_module.named_parameters() if p.requires_grad})


def _batch(backbone: HFText, texts: list[str]) -> Batch:
    rows = [backbone.preprocessor(text)["input_ids"] for text in texts]
    width = min(map(len, rows))
    ids = torch.tensor([row[:width] for row in rows])
    numbers = torch.arange(len(rows))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, numbers % 2, numbers


def _task(folder: Path, strategy: FineTuning) -> TransferTask:
    torch.manual_seed(0)
    backbone = HFText(str(folder), pooling="mean")
    return TransferTask(
        backbone,
        Linear(backbone.out_features, 2),
        MultiClass(),
        strategy,
        optimizer=partial(torch.optim.SGD, lr=LR, weight_decay=0.1),
        schedule=constant,
        num_outputs=2,
    )


def _fit(task: TransferTask, epochs: int = 2) -> Watch:
    backbone = task.backbone
    assert isinstance(backbone, HFText)
    batch = _batch(backbone, ["a fine film", "a dull film", "a good plot", "a bad plot"])
    loader: DataLoader[Tensor] = DataLoader([batch] * BATCHES, batch_size=None)  # type: ignore[arg-type]
    watch = Watch()
    lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[watch],
    ).fit(task, loader, loader)
    return watch


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("name", MOVES)
def test_exactly_what_should_move_moves(name: str, kind: str, tiny: Tiny) -> None:
    make, moves = MOVES[name]
    task = _task(tiny(kind), make())
    before = {key: value.clone() for key, value in task.state_dict().items()}
    watch = _fit(task)
    groups = task.backbone.layer_groups()
    expected = {"head.1.weight", "head.1.bias"}
    for depth, group in enumerate(groups):
        expected |= {f"backbone.{n}" for n in group if moves(n, depth, len(groups))}
    changed = {key for key, value in task.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == expected
    assert watch.moving[-1] == expected


@pytest.mark.parametrize("name", MOVES)
def test_the_optimizer_holds_once_what_will_ever_move_and_nothing_else(name: str, tiny: Tiny) -> None:
    make, moves = MOVES[name]
    task = _task(tiny("bert"), make())
    _fit(task)
    optimizer = task.trainer.optimizers[0]
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    groups = task.backbone.layer_groups()
    named = dict(task.backbone.named_parameters())
    ever = {id(named[n]) for depth, group in enumerate(groups) for n in group if moves(n, depth, len(groups))}
    assert set(held) == ever | {id(p) for p in task.head.parameters()}


def test_dropout_is_on_in_a_full_fine_tune(tiny: Tiny) -> None:
    modes = _fit(_task(tiny("bert"), FineTuning())).modes
    dropouts = [name for name in modes[0] if "dropout" in name.lower()]
    assert len(dropouts) >= 5
    assert all(mode[name] for mode in modes for name in dropouts), "also after a validation"


def test_frozen_means_eval_in_every_epoch(tiny: Tiny) -> None:
    modes = _fit(_task(tiny("bert"), LinearProbe())).modes
    assert len(modes) == 2 * BATCHES
    inside = [name for name in modes[0] if name.startswith("backbone.")]
    assert not any(mode[name] for mode in modes for name in inside)
    assert all(mode["head.0"] for mode in modes), "the head's dropout stays on"


def test_a_half_frozen_backbone_is_half_in_eval(tiny: Tiny) -> None:
    mode = _fit(_task(tiny("bert"), TopOnly())).modes[-1]
    below, above = "backbone.model.encoder.layer.0", "backbone.model.encoder.layer.1"
    assert not any(on for name, on in mode.items() if name.startswith(below))
    assert all(on for name, on in mode.items() if name.startswith(above))


class WithBatchNorm(HFText):
    """No text model here has BatchNorm; this one gets one, to see that nothing drifts."""

    def __init__(self, name: str) -> None:
        super().__init__(name, pooling="mean")
        self.norm = torch.nn.BatchNorm1d(self.out_features)

    def forward(self, **inputs: Tensor) -> Tensor:
        features: Tensor = self.norm(super().forward(**inputs))
        return features


@pytest.mark.parametrize(("strategy", "drifts"), [(LinearProbe(), False), (FineTuning(), True)])
def test_batchnorm_statistics_of_a_frozen_backbone_stay(strategy: FineTuning, drifts: bool, tiny: Tiny) -> None:
    task = _task(tiny("bert"), strategy)
    backbone = WithBatchNorm(str(tiny("bert")))
    task.backbone = backbone
    assert backbone.norm.running_mean is not None
    before = backbone.norm.running_mean.clone()
    _fit(task)
    assert torch.equal(before, backbone.norm.running_mean) is not drifts


def test_a_probe_builds_no_graph_through_the_backbone(tiny: Tiny) -> None:
    task = _task(tiny("bert"), LinearProbe())
    _fit(task, epochs=1)
    backbone = task.backbone
    assert isinstance(backbone, HFText)
    inputs, _, _ = _batch(backbone, ["a fine film"])
    assert backbone(**inputs).grad_fn is None


def test_layer_decay_rates_are_those_of_the_table(tiny: Tiny) -> None:
    task = _task(tiny("bert"), FineTuning(layer_decay=0.5))
    _fit(task)
    rates = {}
    for group in task.trainer.optimizers[0].param_groups:
        for parameter in group["params"]:
            rates[id(parameter)] = (group["lr"], group["weight_decay"])
    named = dict(task.named_parameters())
    table = {
        "head.1.weight": (LR, 0.1),
        "head.1.bias": (LR, 0.0),
        "backbone.model.encoder.layer.1.output.dense.weight": (LR * 0.5, 0.1),
        "backbone.model.encoder.layer.0.output.dense.weight": (LR * 0.25, 0.1),
        "backbone.model.encoder.layer.0.output.LayerNorm.weight": (LR * 0.25, 0.0),
        "backbone.model.embeddings.word_embeddings.weight": (LR * 0.125, 0.1),
    }
    for name, expected in table.items():
        assert rates[id(named[name])] == pytest.approx(expected), name


def test_a_schedule_of_freezing_is_refused_under_plain_ddp(tiny: Tiny) -> None:
    strategy, task = Gradual(), _task(tiny("bert"), Gradual())
    plain, able = (
        lightning.Trainer(accelerator="cpu", devices=1, max_epochs=3, logger=False, strategy=name)
        for name in ("ddp", "ddp_find_unused_parameters_true")
    )
    with pytest.raises(UserError, match="ddp_find_unused_parameters_true"):
        strategy.on_fit_start(plain, task)
    strategy.on_fit_start(able, task)
