"""One contract for all text backbones, over tiny models of each kind."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer

from tl_lightning.backbones import HFText
from tl_lightning.backbones.base import group_by_layer
from tl_lightning.backbones.pooling import POOLINGS
from tl_lightning.errors import UserError

Tiny = Callable[[str], Path]
POOLING_OF = {
    "bert": "cls",
    "distilbert": "cls",
    "roberta": "cls",
    "deberta": "cls",
    "modernbert": "cls",
    "gpt2": "last",
    "llama": "last",
}
KINDS = list(POOLING_OF)
TEXTS = ["a fine film", "dull", "not a good plot at all, and very long"]


def _inputs(backbone: HFText, texts: list[str] = TEXTS, extra: int = 0) -> dict[str, Tensor]:
    """A batch padded on the right, by ``extra`` tokens more than it needs."""
    rows = [backbone.preprocessor(text)["input_ids"] for text in texts]
    width = max(map(len, rows)) + extra
    pad = backbone.preprocessor.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str, tiny: Tiny) -> None:
    backbone = HFText(str(tiny(kind)))
    inputs = _inputs(backbone)
    features = backbone(**inputs)
    assert features.shape == (len(TEXTS), backbone.out_features)
    assert features.dtype == torch.float32
    names = [name for name, _ in backbone.named_parameters()]
    groups = backbone.layer_groups()
    assert sorted(name for group in groups for name in group) == sorted(names)
    assert len(groups) == 3, "the input side and two layers"
    assert any("embed" in name or "wte" in name for name in groups[0])
    assert all(not any(f".{n}." in name for n in (0, 1)) for name in groups[0])
    assert backbone.identity["pooling"] == POOLING_OF[kind]
    assert backbone.preprocessor.pad_token_id is not None


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_gets_a_gradient(kind: str, tiny: Tiny) -> None:
    """Plain DDP needs it: no pooler or other part may lie idle."""
    backbone = HFText(str(tiny(kind)), pooling="mean")
    backbone(**_inputs(backbone)).square().sum().backward()
    idle = [name for name, p in backbone.named_parameters() if p.grad is None]
    assert idle == []


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str, tiny: Tiny) -> None:
    poolings: tuple[Literal["cls", "mean", "last"], ...] = ("cls", "mean", "last")
    assert set(poolings) == set(POOLINGS)
    for pooling in poolings:
        backbone = HFText(str(tiny(kind)), pooling=pooling).eval()
        with torch.no_grad():
            plain, padded = backbone(**_inputs(backbone)), backbone(**_inputs(backbone, extra=7))
            alone = backbone(**_inputs(backbone, TEXTS[:1]))
        torch.testing.assert_close(plain, padded, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(plain[:1], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "gpt2"])
def test_dropout_is_on_until_eval(kind: str, tiny: Tiny) -> None:
    backbone = HFText(str(tiny(kind)))
    inputs = _inputs(backbone)
    assert not torch.equal(backbone(**inputs), backbone(**inputs))
    backbone.eval()
    assert torch.equal(backbone(**inputs), backbone(**inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_from_scratch_is_the_same_architecture_with_other_weights(kind: str, tiny: Tiny) -> None:
    folder = str(tiny(kind))
    torch.manual_seed(0)
    pretrained, again, scratch = HFText(folder), HFText(folder), HFText(folder, pretrained=False)
    shapes = [{name: p.shape for name, p in b.named_parameters()} for b in (pretrained, scratch)]
    assert shapes[0] == shapes[1]
    matrices = [name for name, p in pretrained.named_parameters() if p.ndim == 2]
    weights = [dict(b.named_parameters()) for b in (pretrained, again, scratch)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in matrices)
    assert not any(torch.equal(weights[0][name], weights[2][name]) for name in matrices)


@pytest.mark.parametrize("kind", ["bert", "gpt2", "llama"])
def test_gradient_checkpointing_gives_the_same_gradients(kind: str, tiny: Tiny) -> None:
    found = []
    for checkpointing in (False, True):
        backbone = HFText(str(tiny(kind)), gradient_checkpointing=checkpointing)
        for module in backbone.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        backbone.model.config.attention_probs_dropout_prob = 0.0
        torch.manual_seed(0)
        backbone(**_inputs(backbone)).square().sum().backward()
        assert checkpointing is any(getattr(m, "gradient_checkpointing", False) for m in backbone.modules())
        found.append({n: p.grad for n, p in backbone.named_parameters()})
    torch.testing.assert_close(found[0], found[1])


def test_the_attention_implementation_is_taken_and_recorded(tiny: Tiny) -> None:
    for name in ("eager", "sdpa"):
        assert HFText(str(tiny("bert")), attn_implementation=name).identity["attention"] == name
    with pytest.raises(UserError, match="attn_implementation=flash_attention_9"):
        HFText(str(tiny("bert")), attn_implementation="flash_attention_9")


def test_roberta_does_not_run_past_its_positions(tiny: Tiny) -> None:
    """Its positions begin after the padding index, so that fewer fit than the table has rows."""
    backbone = HFText(str(tiny("roberta"))).eval()
    longest = backbone.preprocessor.model_max_length
    table = backbone.model.get_submodule("embeddings.position_embeddings")
    assert isinstance(table, torch.nn.Embedding)
    assert table.padding_idx is not None
    assert longest == table.num_embeddings - table.padding_idx - 1
    ids = torch.full((1, longest), 9)
    assert backbone(input_ids=ids, attention_mask=torch.ones_like(ids)).shape[0] == 1


@pytest.mark.parametrize("prefix", ["", "bert.", "backbone.model."])
def test_weights_from_a_file(prefix: str, tiny: Tiny, tmp_path: Path) -> None:
    folder = tiny("bert")
    source = HFText(str(folder), pretrained=False)
    file = tmp_path / "w.safetensors"
    save_file({f"{prefix}{k}": v.clone() for k, v in source.model.state_dict().items()}, file)
    loaded = HFText(str(folder), weights=str(file))
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), loaded.parameters(), strict=True))
    assert loaded.identity["weights"] == str(file)


def test_weights_of_another_shape_name_the_keys(tiny: Tiny, tmp_path: Path) -> None:
    tensors = load_file(tiny("distilbert") / "model.safetensors")
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"does not fit BertModel: \d+ keys missing \(embeddings\."):
        HFText(str(tiny("bert")), weights=str(tmp_path / "w.safetensors"))


def test_a_pickle_with_a_payload_is_refused_and_does_not_run(tiny: Tiny, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (proof,)

    torch.save({"a": Payload()}, tmp_path / "w.bin")
    with pytest.raises(UserError, match="is damaged, or not a safetensors file"):
        HFText(str(tiny("bert")), weights=str(tmp_path / "w.bin"))
    assert not proof.exists()


def test_other_weights_than_expected_are_refused(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="not the expected weights"):
        HFText(str(tiny("bert")), sha256="0" * 64)


def test_a_model_that_asks_for_code_of_its_own_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UserError, match="asks to run code of its own"):
        HFText(str(tmp_path))


def test_an_encoder_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="is an encoder-decoder"):
        HFText(str(tmp_path))


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["emb.w", "layer.0.w", "layer.1.w", "norm.w"], [["emb.w"], ["layer.0.w"], ["layer.1.w", "norm.w"]]),
        (["wte.w", "h.0.w", "h.0.b", "ln_f.w"], [["wte.w"], ["h.0.w", "h.0.b", "ln_f.w"]]),
        (["encoder.layer.0.w", "encoder.rel_embeddings.w"], [["encoder.rel_embeddings.w"], ["encoder.layer.0.w"]]),
    ],
)
def test_layer_groups(names: list[str], groups: list[list[str]]) -> None:
    assert group_by_layer(names) == groups


def test_names_without_layers_are_an_error() -> None:
    with pytest.raises(ValueError, match="no layers found"):
        group_by_layer(["weight", "bias"])


def test_last_finds_the_last_real_token_on_either_side() -> None:
    hidden = torch.arange(10.0).reshape(2, 5, 1)
    mask = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1]])
    assert POOLINGS["last"](hidden, mask).flatten().tolist() == [2.0, 9.0]
    assert POOLINGS["mean"](hidden, mask).flatten().tolist() == [1.0, 8.0]
    assert POOLINGS["cls"](hidden, mask).flatten().tolist() == [0.0, 5.0]


def test_the_tokenizer_travels_with_the_backbone(tiny: Tiny) -> None:
    folder = tiny("gpt2")
    own = AutoTokenizer.from_pretrained(folder)
    assert own.pad_token is None
    backbone = HFText(str(folder))
    assert backbone.preprocessor.pad_token == own.eos_token
    assert backbone.model.config.pad_token_id == own.eos_token_id
