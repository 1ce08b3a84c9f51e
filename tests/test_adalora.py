"""AdaLoRA's budget: ranks fall to the target, what is cut stays cut, and a resume goes on with the same scores."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from tests.adapted import BATCHES, QUIET, Tiny, batch, fit, loader, logits, prepared, task, trainer
from tl_lightning.errors import UserError
from tl_lightning.strategies import AdaLoRA, FineTuning
from tl_lightning.task import TransferTask

pytestmark = [pytest.mark.filterwarnings(*QUIET)]
LAYERS, EPOCHS = 12, 4
STEPS = EPOCHS * BATCHES


def _ranks(made: TransferTask) -> list[int]:
    return [int(value.count_nonzero()) for name, value in made.state_dict().items() if "lora_E" in name]


class Watch(Callback):
    """Notes the ranks, and the scores that the strategy remembers, before every step."""

    def __init__(self) -> None:
        self.ranks: list[int] = []
        self.scores: dict[int, dict[str, Tensor]] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, TransferTask)
        self.ranks.append(sum(_ranks(pl_module)))
        self.scores[trainer.global_step] = dict(pl_module.strategy.state_dict()["exp_avg_ipt"])


@pytest.mark.parametrize("kind", ["bert", "gpt2", "vit"])
def test_ranks_fall_to_the_target_and_stay(kind: str, tiny: Tiny) -> None:
    made = task(kind, tiny, AdaLoRA(target_r=2, init_r=4))
    fit(made, watch := Watch(), epochs=EPOCHS)
    layers = len(_ranks(made))
    assert sum(_ranks(made)) == 2 * layers
    assert max(_ranks(made)) > min(_ranks(made)), "they go where they matter"
    assert watch.ranks[1] == 4 * layers, "one step to warm up, after which the budget falls"
    assert watch.ranks[1:] == sorted(watch.ranks[1:], reverse=True)
    final = int(0.3 * STEPS)
    assert watch.ranks[-final:] == [2 * layers] * final


def test_gradients_accumulate_to_one_allocation_a_step(tiny: Tiny) -> None:
    made = task("bert", tiny, AdaLoRA(target_r=2, init_r=4))
    fit(made, epochs=2 * EPOCHS, accumulate_grad_batches=2)
    assert made.strategy.state_dict()["done"] == 2 * EPOCHS * 2
    assert sum(_ranks(made)) == 2 * LAYERS


def test_the_loss_keeps_singular_vectors_orthogonal(tiny: Tiny) -> None:
    made = prepared(task("bert", tiny, AdaLoRA(target_r=2, init_r=4, orthogonal=0.25)))
    inputs, target, _ = batch(made.backbone)
    made.eval()
    found = made.strategy.loss(made, inputs, target) - FineTuning().loss(made, inputs, target)
    distances = []
    for name, value in made.backbone.state_dict().items():
        if "lora_A" in name or "lora_B" in name:
            rows = value if "lora_A" in name else value.T
            distances.append(torch.linalg.matrix_norm(rows @ rows.T - torch.eye(4)))
    assert len(distances) == 2 * LAYERS
    torch.testing.assert_close(found, 0.25 * torch.stack(distances).mean())


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_resume_goes_on_with_scores_and_ranks(epoch: int, tiny: Tiny, tmp_path: Path) -> None:
    """After one epoch ranks are falling; after three they are settled."""

    def make() -> TransferTask:
        made = task("bert", tiny, AdaLoRA(target_r=2, init_r=4), torch.optim.AdamW)
        for module in made.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return made

    class Save(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            if trainer.current_epoch == epoch - 1:
                trainer.save_checkpoint(tmp_path / "x.ckpt")

    straight, resumed = make(), make()
    fit(straight, one := Watch(), Save(), epochs=EPOCHS)
    used = trainer(other := Watch(), epochs=EPOCHS)
    data = loader(resumed)
    used.fit(resumed, data, data, ckpt_path=tmp_path / "x.ckpt", weights_only=True)
    assert min(other.scores) == epoch * BATCHES
    for step, scores in other.scores.items():
        assert scores.keys() == one.scores[step].keys()
        assert all(torch.equal(value, one.scores[step][name]) for name, value in scores.items())
    assert bool(other.scores[epoch * BATCHES]) is (epoch == 1), "they are forgotten once ranks are settled"
    assert torch.equal(logits(straight), logits(resumed))
    assert _ranks(straight) == _ranks(resumed)


def test_what_leaves_nothing_to_allocate_is_refused() -> None:
    with pytest.raises(UserError, match=r"strategy.init_r=8 must be above strategy.target_r=8"):
        AdaLoRA(target_r=8, init_r=8)
    with pytest.raises(UserError, match=r"strategy.initial=0.5 and strategy.final=0.5 are shares"):
        AdaLoRA(initial=0.5, final=0.5)
