"""Prompts that are made of real words do what the words do; where a model cannot be prompted, it is told."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from tests.adapted import QUIET, Tiny, backbone, batch, fit, logits, prepared, task
from tl_lightning.backbones import HFText
from tl_lightning.backbones.pooling import POOLINGS
from tl_lightning.errors import UserError
from tl_lightning.strategies import PrefixTuning, PromptTuning

pytestmark = [pytest.mark.filterwarnings(*QUIET)]
WORDS, TEXTS = 3, 4
EVERY = ("bert", "distilbert", "roberta", "deberta", "modernbert", "gpt2", "llama")


def _texts(kind: str, model: HFText) -> tuple[Tensor, Tensor]:
    """The same words before each of some texts, which are padded on the right: ids and mask (B, T)."""
    drawn = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 30, (TEXTS, WORDS + 6), generator=drawn)
    ids[:, :WORDS] = ids[0, :WORDS]
    mask = torch.ones_like(ids)
    mask[1, -2:] = 0
    ids[1, -2:] = model.preprocessor.pad_token_id
    return ids, mask


def _model(kind: str, tiny: Tiny, pooling: Any) -> HFText:
    return HFText(str(tiny(kind)), pooling=pooling).eval()


def _learned(prompted: HFText) -> Tensor:
    model: Any = prompted.eval().model
    learned: Tensor = model.peft.prompt_encoder["default"].embedding.weight
    return learned


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
@pytest.mark.parametrize("kind", EVERY)
@torch.no_grad()
def test_a_prompt_of_words_is_those_words(kind: str, pooling: str, tiny: Tiny) -> None:
    plain, prompted = _model(kind, tiny, pooling), _model(kind, tiny, pooling)
    ids, mask = _texts(kind, plain)
    PromptTuning(WORDS).insert(prompted)
    table: Any = plain.model.get_input_embeddings()
    _learned(prompted).copy_(table(ids[0, :WORDS]))
    hidden = plain.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, WORDS:]
    expected = POOLINGS[pooling](hidden, mask[:, WORDS:])
    found = prompted(input_ids=ids[:, WORDS:], attention_mask=mask[:, WORDS:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "roberta", "gpt2", "llama"])
@torch.no_grad()
def test_a_prefix_of_words_is_those_words(kind: str, tiny: Tiny) -> None:
    """Their keys and values in each layer, as the plain model makes them."""
    plain, prompted = _model(kind, tiny, "mean"), _model(kind, tiny, "mean")
    ids, mask = _texts(kind, plain)
    ids, mask = ids[:1], mask[:1]
    PrefixTuning(WORDS).insert(prompted)
    cache = DynamicCache()
    hidden = plain.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True).last_hidden_state
    # Each row of the embedding is (layers, key and value, heads, width) of one virtual token.
    layers: Any = cache.layers
    rows = torch.stack([torch.stack([layer.keys, layer.values]) for layer in layers])[:, :, 0, :, :WORDS]
    _learned(prompted).copy_(rows.permute(3, 0, 1, 2, 4).reshape(WORDS, -1))
    expected = POOLINGS["mean"](hidden[:, WORDS:], mask[:, WORDS:])
    found = prompted(input_ids=ids[:, WORDS:], attention_mask=mask[:, WORDS:])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_a_prompt_before_a_pair_belongs_to_the_first_text(tiny: Tiny) -> None:
    plain, prompted = _model("bert", tiny, "mean"), _model("bert", tiny, "mean")
    ids, mask = _texts("bert", plain)
    types = torch.zeros_like(ids)
    types[:, -3:] = 1
    PromptTuning(WORDS).insert(prompted)
    table: Any = plain.model.get_input_embeddings()
    with torch.no_grad():
        _learned(prompted).copy_(table(ids[0, :WORDS]))
        hidden = plain.model(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state[:, WORDS:]
        cut = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        found = prompted(**{name: value[:, WORDS:] for name, value in cut.items()})
    torch.testing.assert_close(found, POOLINGS["mean"](hidden, mask[:, WORDS:]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [PromptTuning, PrefixTuning])
def test_dropout_is_on_in_all_layers(make: Any, tiny: Tiny) -> None:
    made = prepared(task("bert", tiny, make(WORDS)))
    made.train()
    made.strategy._freeze(made, 0)
    assert all(module.training for name, module in made.named_modules() if name.endswith("dropout"))


@pytest.mark.parametrize("make", [PromptTuning, PrefixTuning])
@pytest.mark.parametrize("kind", ["bert", "gpt2"])
def test_a_prompt_learns_in_bfloat16_too(make: Any, kind: str, tiny: Tiny) -> None:
    made = task(kind, tiny, make(WORDS), torch.optim.AdamW)
    before = logits(prepared(made))
    fit(made, precision="bf16-mixed")
    assert not torch.allclose(before, logits(made), atol=1e-3)


@pytest.mark.parametrize("kind", ["distilbert", "deberta", "modernbert"])
def test_a_model_that_takes_no_prefix_is_refused(kind: str, tiny: Tiny) -> None:
    with pytest.raises(UserError, match=r"Model takes no past_key_values: .* strategy=prompt or strategy=lora"):
        PrefixTuning(WORDS).insert(_model(kind, tiny, "mean"))


@pytest.mark.parametrize("make", [PromptTuning, PrefixTuning])
def test_what_cannot_be_prompted_is_refused(make: Any, tiny: Tiny) -> None:
    for kind in ("vit", "resnet"):
        with pytest.raises(UserError, match="stands before a text"):
            make().insert(backbone(kind, tiny))
    with pytest.raises(UserError, match="there are no weights to merge them"):
        make(merge=True)


def test_a_prefix_does_not_go_with_recomputed_activations(tiny: Tiny) -> None:
    with pytest.raises(UserError, match="gradient_checkpointing=true"):
        PrefixTuning().insert(HFText(str(tiny("bert")), gradient_checkpointing=True))


class Data:
    """Says how long its texts may be."""

    def __init__(self, longest: int) -> None:
        self.summary = {"max_length": longest}


def test_texts_that_leave_no_room_are_refused(tiny: Tiny) -> None:
    from tests.adapted import trainer

    made, used = task("bert", tiny, PromptTuning(10)), trainer()
    used.datamodule = Data(55)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"data.max_length=55: the model reads 64 tokens.*data.max_length=54"):
        made.strategy.setup(used, made, "test")
    used.datamodule = Data(54)  # type: ignore[attr-defined]
    made.strategy.setup(used, made, "test")
    inputs, _, _ = batch(made.backbone)
    ids = inputs["input_ids"].repeat(1, 20)[:, :54]
    with torch.no_grad():
        made({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
