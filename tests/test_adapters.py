"""One contract for all adapters: what moves, what is stored, what comes back, and that nothing changes at first."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from tests.adapted import IMAGE, LR, QUIET, TEXT, Tiny, backbone, fit, loader, logits, prepared, task, trainer
from tl_lightning.errors import UserError
from tl_lightning.strategies import IA3, OFT, AdaLoRA, DoRA, LayerAdapter, LoRA, PiSSA, RSLoRA, VeRA

pytestmark = [pytest.mark.filterwarnings(*QUIET)]
Make = Callable[..., LayerAdapter]

# strategy -> how it is made small, what its trained parts are called, the backbones it fits
ADAPTERS: dict[str, tuple[Make, tuple[str, ...], tuple[str, ...]]] = {
    "lora": (lambda **k: LoRA(r=4, **k), ("lora_A", "lora_B"), (*TEXT, *IMAGE)),
    "dora": (lambda **k: DoRA(r=4, **k), ("lora_A", "lora_B", "lora_magnitude_vector"), (*TEXT, *IMAGE)),
    "rslora": (lambda **k: RSLoRA(r=4, **k), ("lora_A", "lora_B"), (*TEXT, *IMAGE)),
    "pissa": (lambda **k: PiSSA(r=4, **k), ("lora_A", "lora_B"), (*TEXT, "vit")),
    "adalora": (lambda **k: AdaLoRA(2, 4, **k), ("lora_A", "lora_B", "lora_E"), (*TEXT, *IMAGE)),
    "ia3": (lambda **k: IA3(**k), ("ia3_l",), (*TEXT, "vit")),
    "vera": (lambda **k: VeRA(r=8, **k), ("vera_lambda_b", "vera_lambda_d"), (*TEXT, "vit")),
    "oft": (lambda **k: OFT(block_size=8, **k), ("oft_R",), ("bert", "vit")),
}
CASES = [(name, kind) for name, (_, _, kinds) in ADAPTERS.items() for kind in kinds]
each = pytest.mark.parametrize(("name", "kind"), CASES)


@each
def test_nothing_changes_before_the_first_step(name: str, kind: str, tiny: Tiny) -> None:
    plain = task(kind, tiny, ADAPTERS[name][0]())
    before = logits(plain)
    assert len(prepared(plain).state_dict()) > len(backbone(kind, tiny).state_dict()) + 2
    torch.testing.assert_close(logits(plain), before, atol=1e-5, rtol=1e-5)


@each
def test_adapters_and_head_move_and_nothing_else(name: str, kind: str, tiny: Tiny) -> None:
    make, parts, _ = ADAPTERS[name]
    made = prepared(task(kind, tiny, make()))
    before = {key: value.clone() for key, value in made.state_dict().items()}
    fit(made)
    moved = {key for key, value in made.state_dict().items() if not torch.equal(before[key], value)}
    own = {key for key in before if key.startswith("backbone.") and any(f".{part}" in key for part in parts)}
    assert own <= set(before)
    pruned = {key for key, value in made.state_dict().items() if "lora_E" in key and not value.any()}
    assert moved | pruned == {*own, "head.1.weight", "head.1.bias"}
    counts = made.parameter_counts()
    assert counts["trained"] == sum(before[key].numel() for key in moved | pruned)
    assert counts["trained"] < counts["all"]


@each
def test_layer_groups_stay_a_partition_and_the_optimizer_holds_each_part_once(name: str, kind: str, tiny: Tiny) -> None:
    made = task(kind, tiny, ADAPTERS[name][0]())
    depth = len(made.backbone.layer_groups())
    before = [len(group) for group in made.backbone.layer_groups()]
    used = fit(made)
    groups = made.backbone.layer_groups()
    assert len(groups) == depth
    assert sorted(n for g in groups for n in g) == sorted(n for n, _ in made.backbone.named_parameters())
    assert len(groups[0]) == before[0], "nothing on the input side"
    held = [p for group in used.optimizers[0].param_groups for p in group["params"]]
    trained = {n: p for n, p in made.named_parameters() if p.requires_grad}
    assert sorted(map(id, held)) == sorted(map(id, trained.values()))
    decayed = {id(p) for g in used.optimizers[0].param_groups if g["weight_decay"] for p in g["params"]}
    for key, parameter in trained.items():
        vector = parameter.ndim == 1 or any(part in key for part in made.strategy.vectors)  # type: ignore[attr-defined]
        assert (id(parameter) in decayed) is not vector, key
        assert vector or sum(size > 1 for size in parameter.shape) > 1, f"{key} is a vector"


@each
def test_a_checkpoint_holds_what_was_trained_and_comes_back(name: str, kind: str, tiny: Tiny, tmp_path: Path) -> None:
    make, parts, _ = ADAPTERS[name]
    made = task(kind, tiny, make())
    used = fit(made)
    used.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert {key for key in stored if key.startswith("head.")} == {"head.1.weight", "head.1.bias"}
    rest = [key for key in stored if not key.startswith("head.")]
    assert rest
    assert all(any(f".{part}" in key for part in parts) for key in rest)
    torch.rand(7)  # a rebuild draws from another state
    fresh = task(kind, tiny, make())
    trainer().test(fresh, loader(fresh), ckpt_path=tmp_path / "x.ckpt", verbose=False, weights_only=True)
    assert torch.equal(logits(fresh), logits(made))


@each
def test_merged_weights_are_a_plain_backbone(name: str, kind: str, tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = task(kind, tiny, ADAPTERS[name][0](merge=True))
    before = made.backbone.state_dict().keys()
    fit(made, default_root_dir=tmp_path)
    tensors = load_file(tmp_path / "checkpoints/merged.safetensors")
    plain = backbone(kind, tiny)
    fresh = task(kind, tiny, ADAPTERS[name][0]())
    assert {f"backbone.{key}" for key in plain.state_dict()} == {k for k in tensors if k.startswith("backbone.")}
    assert before == plain.state_dict().keys()
    untouched = logits(fresh)
    fresh.load_state_dict(tensors)
    torch.testing.assert_close(logits(fresh), logits(made), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(fresh), untouched, atol=1e-3)


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


class WithAttention(nn.Module):
    """torch's own attention reads the weights of its projection without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.mlp = nn.Linear(8, 8)


def test_what_an_adapter_would_not_reach_is_left_out() -> None:
    from tl_lightning.strategies.places import LINEAR, adaptable

    assert set(adaptable(WithAttention(), LINEAR)) == {"mlp"}


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
