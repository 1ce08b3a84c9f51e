"""Where adapters act: modes, rates, targets, and PiSSA's split."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torchvision.models.swin_transformer import ShiftedWindowAttention

from tests.adapted import IMAGE, LR, QUIET, TEXT, Tiny, backbone, fit, prepared, task
from tl_lightning.backbones import Backbone
from tl_lightning.errors import UserError
from tl_lightning.strategies import OFT, LoRA, PiSSA
from tl_lightning.strategies.places import LINEAR, adaptable

pytestmark = [pytest.mark.filterwarnings(*QUIET)]


class Modes(Callback):
    """Notes the modes at every step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, bool]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.seen.append({name: module.training for name, module in pl_module.named_modules()})


@pytest.mark.parametrize(("kind", "targets"), [("bert", None), ("bert", ["query"]), ("vit", None), ("vit", ["q_proj"])])
def test_dropout_is_on_in_adapted_layers_and_off_on_the_input_side(
    kind: str, targets: list[str] | None, tiny: Tiny
) -> None:
    made = task(kind, tiny, LoRA(r=2, dropout=0.1, targets=targets))
    fit(made, modes := Modes())
    inside = [name for name, _ in made.named_modules() if ".layer.0" in name or ".layers.0" in name]
    below = [name for name, _ in made.named_modules() if ".embeddings" in name]
    assert {"Dropout"} <= {type(made.get_submodule(name)).__name__ for name in below}
    assert any(name.endswith("dropout") for name in inside)
    assert len(modes.seen) == 6
    for mode in modes.seen:
        assert all(mode[name] for name in inside), "also after a validation"
        assert not any(mode[name] for name in below)


def test_batchnorm_statistics_stay(tiny: Tiny) -> None:
    made = task("resnet", tiny, LoRA(r=2))
    before = {name: value.clone() for name, value in made.backbone.named_buffers()}
    fit(made, modes := Modes())
    after = dict(made.backbone.named_buffers())
    assert len(before) == 36
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any(on for name, on in modes.seen[-1].items() if name.endswith(("bn1", "bn2")))


def test_layer_decay_reaches_the_adapters(tiny: Tiny) -> None:
    made = task("bert", tiny, LoRA(r=2, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in fit(made).optimizers[0].param_groups for p in group["params"]}
    named = dict(made.named_parameters())
    query = "backbone.model.encoder.layer.{}.attention.self.query.lora_A.default.weight"
    assert rates[id(named[query.format(1)])] == pytest.approx(LR * 0.5)
    assert rates[id(named[query.format(0)])] == pytest.approx(LR * 0.25)
    assert rates[id(named["head.1.weight"])] == pytest.approx(LR)


class TopLoRA(LoRA):
    """LoRA in the last layer alone."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return total - 1


def test_adapters_below_may_be_frozen(tiny: Tiny) -> None:
    made = prepared(task("bert", tiny, TopLoRA(r=2)))
    before = {key: value.clone() for key, value in made.state_dict().items()}
    fit(made, modes := Modes())
    moved = {key for key, value in made.state_dict().items() if not torch.equal(before[key], value)}
    assert all(".layer.1." in key or key.startswith("head") for key in moved)
    assert any(".layer.1." in key for key in moved)
    assert not modes.seen[-1]["backbone.model.encoder.layer.0.attention.output.dropout"]


@pytest.mark.parametrize("kind", [*TEXT, *IMAGE])
def test_by_default_all_linear_layers_above_the_input_side(kind: str, tiny: Tiny) -> None:
    found = LoRA().chosen(backbone(kind, tiny))
    expected = {"bert": 2 * 6, "gpt2": 2 * 4, "vit": 2 * 6, "resnet": 11}
    assert len(found) == expected[kind]
    assert "model.conv1" not in found


def test_targets_are_names_and_an_unknown_one_is_told_with_those_there_are(tiny: Tiny) -> None:
    bert = backbone("bert", tiny)
    assert len(LoRA(targets=["query", "layer.1.output.dense"]).chosen(bert)) == 3
    with pytest.raises(UserError, match=r"strategy.targets=\[qery\].*did you mean query\?.*dense, key, query, value"):
        LoRA(targets=["value", "qery"]).chosen(bert)
    with pytest.raises(UserError, match="embeddings"):
        LoRA(targets=["word_embeddings"]).chosen(bert)
    with pytest.raises(UserError, match="PiSSA adapts layers of the kinds Conv1D and Linear"):
        PiSSA().chosen(backbone("resnet", tiny))


@pytest.mark.parametrize("attention", [nn.MultiheadAttention(8, 2), ShiftedWindowAttention(8, [2, 2], [1, 1], 2)])
def test_an_attention_that_reads_the_weights_of_its_parts_is_left_out(attention: nn.Module) -> None:
    assert set(adaptable(nn.ModuleDict({"attention": attention, "mlp": nn.Linear(8, 8)}), LINEAR)) == {"mlp"}


class Reader(Backbone):
    """Reads the weight of a layer in the middle without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        self.out_features = 3
        self.identity = {}

    def forward(self, **inputs: Tensor) -> Tensor:
        first, read, last = self.layers
        features: Tensor = last(first(inputs["pixels"].float().mean((2, 3))) @ read.weight)
        return features


def test_adapters_that_never_act_are_refused_at_the_first_step(tiny: Tiny) -> None:
    made = task("vit", tiny, LoRA(r=2))
    made.backbone, made.head = Reader(), nn.Linear(3, 2)
    with pytest.raises(UserError, match=r"adapters of 1 layers never act.*\(layers.1, ...\)"):
        fit(made)


class Ending(Backbone):
    """A convolutional network with a linear layer at its end, as MobileNet has."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 1)
        self.layers = nn.ModuleList([nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3, groups=4)])
        self.end = nn.Linear(4, 4)

    def forward(self, **inputs: Tensor) -> Tensor:
        raise NotImplementedError


def test_one_linear_layer_at_the_end_makes_no_transformer() -> None:
    assert set(LoRA().chosen(Ending())) == {"layers.0", "end"}
    assert set(PiSSA().chosen(Ending())) == {"end"}


def test_oft_rotates_the_last_dimension_of_any_input() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.Linear(8, 8)])})
    strategy = OFT(block_size=4, targets=["layers.0"])
    strategy.insert(model)  # type: ignore[arg-type]
    layer = model.get_submodule("layers.0")
    with torch.no_grad():
        next(p for n, p in layer.named_parameters() if "oft_R" in n).normal_()
    x = torch.randn(2, 3, 5, 8)
    torch.testing.assert_close(layer(x), layer(x.reshape(30, 8)).reshape(2, 3, 5, 8))


@pytest.mark.parametrize("niter", [None, 16])
def test_pissa_splits_alike_whatever_was_drawn_before(niter: int | None, tiny: Tiny) -> None:
    states = []
    for seed in (1, 2):
        made = task("bert", tiny, PiSSA(r=4, niter=niter))
        torch.manual_seed(seed)
        drawn = torch.random.get_rng_state()
        states.append(prepared(made).state_dict())
        assert torch.equal(drawn, torch.random.get_rng_state())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    plain = backbone("bert", tiny).state_dict()["model.encoder.layer.0.output.dense.weight"]
    kept = states[0]["backbone.model.encoder.layer.0.output.dense.base_layer.weight"]
    torch.testing.assert_close(torch.linalg.svdvals(kept)[0], torch.linalg.svdvals(plain)[4], rtol=1e-2, atol=0)


def test_pissa_refuses_more_than_all_singular_values(tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"strategy.r=33: .* 32 singular values"):
        prepared(task("bert", tiny, PiSSA(r=33)))


def test_without_peft_the_message_comes_at_construction(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_lightning.strategies import adapters

    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"pip install 'tl_lightning\[peft\]'"):
        LoRA()
