"""One contract for all adapters: what moves, what is stored, what comes back, and that nothing changes at first."""

from pathlib import Path

import pytest
import torch

from tests.adapted import QUIET, Tiny, backbone, fit, loader, logits, prepared, task, trainer
from tests.adapter_cases import ADAPTERS, BESIDE, CASES, PROMPTS
from tl_lightning.strategies.merging import write_merged

pytestmark = [pytest.mark.filterwarnings(*QUIET)]
each = pytest.mark.parametrize(("name", "kind"), CASES)
each_beside = pytest.mark.parametrize(("name", "kind"), BESIDE)


@each_beside
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
    assert (len(groups[0]) == before[0]) is (name not in PROMPTS), "on the input side stand prompts alone"
    held = [p for group in used.optimizers[0].param_groups for p in group["params"]]
    trained = {n: p for n, p in made.named_parameters() if p.requires_grad}
    assert sorted(map(id, held)) == sorted(map(id, trained.values()))
    decayed = {id(p) for g in used.optimizers[0].param_groups if g["weight_decay"] for p in g["params"]}
    vectors = getattr(made.strategy, "vectors", ())
    for key, parameter in trained.items():
        vector = parameter.ndim == 1 or any(part in key for part in vectors)
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


@each_beside
def test_merged_weights_are_a_plain_backbone(name: str, kind: str, tiny: Tiny, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    made = task(kind, tiny, ADAPTERS[name][0](merge=True))
    before = made.backbone.state_dict().keys()
    fit(made)
    write_merged(made, tmp_path)
    tensors = load_file(tmp_path / "merged.safetensors")
    plain = backbone(kind, tiny)
    fresh = task(kind, tiny, ADAPTERS[name][0]())
    assert {f"backbone.{key}" for key in plain.state_dict()} == {k for k in tensors if k.startswith("backbone.")}
    assert before == plain.state_dict().keys()
    untouched = logits(fresh)
    fresh.load_state_dict(tensors)
    torch.testing.assert_close(logits(fresh), logits(made), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(fresh), untouched, atol=1e-3)
