"""Data that the tests make themselves: a tiny tokenizer, and tables in every format."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tl_lightning.data import TextFiles

WORDS = ["good", "bad", "film", "plot", "very", "a", "the", "not", "fine", "dull"]
Rows = Sequence[Mapping[str, Any]]
Write = Callable[[str, Rows], Path]
Make = Callable[..., TextFiles]


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerBase:
    vocabulary = {word: code for code, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer()
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=64,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def _separated(path: Path, rows: Rows, delimiter: str, quoting: Any) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter, quoting=quoting, quotechar='"')
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes rows to a file of tmp_path, in the format of its extension."""

    def write(name: str, rows: Rows) -> Path:
        path = tmp_path / name
        if path.suffix == ".csv":
            _separated(path, rows, ",", csv.QUOTE_MINIMAL)
        elif path.suffix == ".tsv":
            _separated(path, rows, "\t", csv.QUOTE_NONE)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        else:
            pa.parquet.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
        return path

    return write


@pytest.fixture
def make(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> Make:
    """A TextFiles over files of tmp_path, set up, with its cache there too."""

    def make(train: str, **options: Any) -> TextFiles:
        others = [split for split in ("val", "test") if split in options]
        paths: dict[str, Any] = {split: str(tmp_path / options.pop(split)) for split in others}
        given = {"preprocessor": tokenizer, "target": "class", "cache_dir": str(tmp_path / "cache")}
        every: dict[str, Any] = {**given, **options, **paths}
        data = TextFiles(train=str(tmp_path / train), **every)
        data.setup()
        return data

    return make


@pytest.fixture
def reviews() -> list[dict[str, Any]]:
    """60 texts of different lengths, no two alike, two thirds of them "pos"."""
    return [
        {
            "text": " ".join([WORDS[row % 10], WORDS[row // 10], *["very"] * (row % 13)]),
            "label": "neg" if row % 3 == 0 else "pos",
        }
        for row in range(60)
    ]
