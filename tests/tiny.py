"""Tiny random models with trained tokenizers, and tiny data sets, laid out as the real ones on the hub."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import torch
import yaml
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertTokenizer,
    DebertaV2Tokenizer,
    DistilBertTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    RobertaTokenizer,
)
from transformers.utils import logging

PRAISE = ["good", "fine", "great", "lovely"]
BLAME = ["bad", "dull", "poor", "awful"]
WORDS = [*PRAISE, *BLAME, "a", "the", "film", "plot", "story", "of", "and", "very", "not", "it", "was"]
EMOTIONS = [f"emotion{number}" for number in range(28)]
ROWS = {"train": 64, "validation": 24, "test": 24}
POSITIONS = 64
Make = Callable[[random.Random], dict[str, Any]]


def sentence(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=chance.randint(3, 12)))


def _trained(kind: type[Any]) -> PreTrainedTokenizerBase:
    """The tokenizer class of a real model, with a vocabulary of the words above."""
    chance = random.Random(0)
    texts = [sentence(chance) for _ in range(200)]
    made: PreTrainedTokenizerBase = kind().train_new_from_iterator(texts, vocab_size=320)
    return made


def _llama() -> PreTrainedTokenizerBase:
    made = _trained(LlamaTokenizer)
    begin = ("<s>", made.convert_tokens_to_ids("<s>"))
    made.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[begin]
    )
    return _plain(made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _modernbert() -> PreTrainedTokenizerBase:
    special = {name: f"[{name[:-6].upper()}]" for name in ("unk_token", "cls_token", "sep_token", "pad_token")}
    return _plain(_trained(BertTokenizer), **special)


def _plain(made: PreTrainedTokenizerBase, **special: str) -> PreTrainedTokenizerBase:
    """A tokenizer without a class of its own, as newer models have."""
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=made.backend_tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


TOKENIZERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "bert": lambda: _trained(BertTokenizer),
    "distilbert": lambda: _trained(DistilBertTokenizer),
    "roberta": lambda: _trained(RobertaTokenizer),
    "gpt2": lambda: _trained(GPT2Tokenizer),
    "llama": _llama,
    "deberta": lambda: _trained(DebertaV2Tokenizer),
    "modernbert": _modernbert,
}
DECODERS = ("gpt2", "llama")


def save_model(kind: str, folder: Path) -> None:
    """A random model of this kind with its tokenizer; takes POSITIONS tokens, and RoBERTa two more as ever."""
    tokenizer = TOKENIZERS[kind]()
    tokens = {
        f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos", "cls", "sep")
    }
    config = AutoConfig.for_model(
        "deberta-v2" if kind == "deberta" else kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.2,
        max_position_embeddings=POSITIONS + (tokens["pad_token_id"] + 1 if kind == "roberta" else 0),
        **{name: token for name, token in tokens.items() if token is not None or name == "pad_token_id"},
    )
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    with_head = AutoModelForCausalLM if kind in DECODERS else AutoModelForMaskedLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2026)  # no run has this seed: trained and from scratch must differ
        with_head.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)


def _single(chance: random.Random) -> dict[str, Any]:
    return {"sentence": sentence(chance), "label": chance.randrange(2)}


def _pair(chance: random.Random) -> dict[str, Any]:
    return {"sentence1": sentence(chance), "sentence2": sentence(chance), "label": chance.randrange(2)}


def _alike(chance: random.Random) -> dict[str, Any]:
    return {**_pair(chance), "label": round(chance.uniform(0, 5), 2)}


def _comment(chance: random.Random) -> dict[str, Any]:
    # Few enough that train has all of them; the others are declared and never occur.
    return {"text": sentence(chance), "labels": sorted(chance.sample(range(0, 28, 3), chance.randint(1, 2)))}


GLUE: dict[str, tuple[Make, list[str]]] = {
    "sst2": (_single, ["negative", "positive"]),
    "cola": (_single, ["unacceptable", "acceptable"]),
    "mrpc": (_pair, ["not_equivalent", "equivalent"]),
    "stsb": (_alike, []),
}


def save_data(folder: Path) -> None:
    """nyu-mll/glue and google-research-datasets/go_emotions below `folder`."""
    glue = folder / "nyu-mll/glue"
    for subset, (make, classes) in GLUE.items():
        for split, rows in ROWS.items():
            _write(glue / subset, split, make, rows, "idx", secret=-1.0 if not classes else -1)
    _readme(glue, {subset: _features(make, classes) for subset, (make, classes) in GLUE.items()})
    emotions = folder / "google-research-datasets/go_emotions"
    for split, rows in ROWS.items():
        _write(emotions / "simplified", split, _comment, rows, "id")
    _readme(emotions, {"simplified": _features(_comment, EMOTIONS)})


def _write(folder: Path, split: str, make: Make, count: int, key: str, secret: float | None = None) -> None:
    chance = random.Random(f"{folder.name} {split}")
    rows = [{**make(chance), key: row if key == "idx" else f"r{row}"} for row in range(count)]
    if split == "test" and secret is not None:
        rows = [{**row, "label": secret} for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    pa.parquet.write_table(pa.Table.from_pylist(rows), folder / f"{split}-00000-of-00001.parquet")


def _features(make: Make, classes: list[str]) -> list[dict[str, Any]]:
    names = [name for name in make(random.Random(0)) if not name.startswith("label")]
    named = {"class_label": {"names": {str(code): name for code, name in enumerate(classes)}}}
    label = {"dtype": named} if classes else {"dtype": "float32"}
    last = {"name": "labels", "sequence": named} if len(classes) > 2 else {"name": "label", **label}
    key = {"name": "id", "dtype": "string"} if len(classes) > 2 else {"name": "idx", "dtype": "int32"}
    return [*({"name": name, "dtype": "string"} for name in names), last, key]


def _readme(folder: Path, features: dict[str, list[dict[str, Any]]]) -> None:
    """The header from which the hub's client takes subsets, splits and features."""
    header = {
        "dataset_info": [{"config_name": subset, "features": has} for subset, has in features.items()],
        "configs": [
            {
                "config_name": subset,
                "data_files": [{"split": split, "path": f"{subset}/{split}-*"} for split in ROWS],
            }
            for subset in features
        ],
    }
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n# {folder.name}\n")
