"""Files of any bytes: each is refused in words, or its rows are those that were configured; memory stays bounded."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from tl_lightning.data import TextFiles, readers
from tl_lightning.errors import UserError

Make = Callable[..., TextFiles]
FORMATS = ["csv", "tsv", "jsonl", "parquet"]
ODD = [
    "\U0001f600 good",
    "\u0627\u0644\u0641\u064a\u0644\u0645 \u202ebad",
    "a\u0301",
    "\ufeffgood",
    "x" * 3000,
    "\x7f\x01",
    "a\u2028b",
]


def _written(path: Path, texts: list[str]) -> None:
    rows = [{"text": text, "label": str(at % 2)} for at, text in enumerate(texts)]
    if path.suffix == ".parquet":
        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        cut = "\t" if path.suffix == ".tsv" else ","
        path.write_text(
            f"text{cut}label\n" + "".join(f"{r['text']}{cut}{r['label']}\n" for r in rows), encoding="utf-8"
        )


def _read(make: Make, name: str, **options: Any) -> list[str] | None:
    """All texts of a file by row, or None where it was refused in words."""
    try:
        data = make(name, val_fraction=0.2, test_fraction=0.2, near_duplicates=False, **options)
    except UserError as fault:
        told = str(fault)
    else:
        store = data.train_dataloader().dataset.store  # type: ignore[attr-defined]
        return store.texts(store["rows"])  # type: ignore[no-any-return]
    assert name.partition(".")[0] in told or "data." in told
    assert len(told) < 1500
    return None


@pytest.mark.parametrize("kind", FORMATS)
def test_odd_texts_come_through_as_they_are(kind: str, tmp_path: Path, make: Make) -> None:
    texts = [*ODD, *(f"film {at}" for at in range(20))]
    _written(tmp_path / f"odd.{kind}", texts)
    assert _read(make, f"odd.{kind}") == texts


def _fuzzed(kind: str, base: bytes) -> st.SearchStrategy[bytes]:
    """Any bytes at all, and a good file with bytes put in, taken out, or changed."""
    places = st.integers(0, len(base))
    pieces = st.one_of(
        st.binary(max_size=8), st.sampled_from([b"\x00", b'"', b"\r", b"\r\n", b"\n\n", b",", b"\t", b"{"])
    )
    put = st.builds(lambda at, piece: base[:at] + piece + base[at:], places, pieces)
    cut = st.builds(lambda at, size: base[:at] + base[at + size :], places, st.integers(1, 40))
    end = st.builds(lambda at: base[:at], places)
    swap = st.builds(lambda at, piece: base[:at] + piece + base[at + len(piece) :], places, pieces)
    head = {"csv": b"text,label\n", "tsv": b"text\tlabel\n", "jsonl": b'{"text": ', "parquet": b"PAR1"}[kind]
    return st.one_of(st.binary(max_size=200), st.binary(max_size=200).map(lambda b: head + b), put, cut, end, swap)


def _fuzz(kind: str, examples: int, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    path, counts = tmp_path / f"any.{kind}", [0, 0]
    _written(path, [f"good film {at}" for at in range(12)])
    base = path.read_bytes()

    def make(name: str, **options: Any) -> TextFiles:
        given_: dict[str, Any] = {"preprocessor": tokenizer, "target": "class", "cache_dir": str(tmp_path / "cache")}
        data = TextFiles(train=str(tmp_path / name), **given_, **options)
        data.setup()
        return data

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(_fuzzed(kind, base))
    def every(content: bytes) -> None:
        path.write_bytes(content)
        texts = _read(make, path.name)
        counts[texts is not None] += 1
        for text in texts or []:
            if kind in ("csv", "tsv"):
                # Nothing is invented: what was read stands in the file, but for quotes and line ends.
                assert text.replace('"', "").split()[0:1] == [] or text.split()[0].strip('"') in content.decode()

    every()
    assert not list((tmp_path / "cache").glob("text/*.tmp*")), "no half-built cache is left"
    return counts[0], counts[1]


@pytest.mark.parametrize("kind", FORMATS)
def test_any_bytes_are_refused_in_words_or_read(kind: str, tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    refused, read = _fuzz(kind, 200, tmp_path, tokenizer)
    assert refused + read >= 200
    assert refused > 20
    assert read > 5


GOOD = b"".join(b"film %d,%d\n" % (at, at % 2) for at in range(12))
ROWS = [f"film {at}" for at in range(12)]
HEAD = b"text,label\n"
FILES: dict[str, tuple[str, bytes, list[str] | str]] = {
    "byte order mark": ("a.csv", b"\xef\xbb\xbf" + HEAD + GOOD, ROWS),
    "byte order mark in jsonl": (
        "a.jsonl",
        b"\xef\xbb\xbf" + b"".join(b'{"text": "film %d", "label": %d}\n' % (at, at % 2) for at in range(12)),
        ROWS,
    ),
    "windows line ends": ("a.csv", (HEAD + GOOD).replace(b"\n", b"\r\n"), ROWS),
    "old mac line ends": ("a.csv", (HEAD + GOOD).replace(b"\n", b"\r"), ROWS),
    "utf-16": ("a.csv", (HEAD + GOOD).decode().encode("utf-16"), "a.csv is not UTF-8"),
    "mixed encodings": ("a.csv", HEAD + GOOD + b"caf\xe9,1\ncaf\xc3\xa9,0\n", "not UTF-8: line 14"),
    "gzip": ("a.csv", gzip.compress(HEAD + GOOD), "a.csv is compressed"),
    "gzip named jsonl": ("a.jsonl", gzip.compress(GOOD), "a.jsonl is compressed"),
    "parquet named csv": ("a.csv", b"PAR1" + bytes(100) + b"PAR1", "a.csv"),
    "ragged": ("a.csv", HEAD + GOOD + b"one,two,three\n", "row 13 has 3 columns, expected 2"),
    "header twice": ("a.csv", b"text,label,label\n" + GOOD.replace(b"\n", b",1\n"), "this column stands twice"),
    "open quote": (
        "a.csv",
        HEAD + GOOD + b'"never closed,1\n' + GOOD,
        "row 13 .*opened there and never closed",
    ),
    "null bytes": ("a.csv", HEAD + GOOD + b"fi\x00lm,1\n", [*ROWS, "fi\x00lm"]),
    "lone surrogate": ("a.jsonl", b'{"text": "a \\ud800 b", "label": 1}\n' * 12, "row 1 holds half a character"),
    "deep json": ("a.jsonl", b'{"text": ' + b"[" * 100_000 + b"]" * 100_000 + b', "label": 1}\n', "row 1"),
    "huge number": ("a.jsonl", b'{"text": "a", "label": ' + b"1" * 5000 + b"}\n", "row 1"),
    "nested text": ("a.jsonl", b'{"text": {"a": [1]}, "label": 1}\n{"text": "b", "label": 0}\n' * 6, "row 1"),
    "json list": ("a.jsonl", b'[{"text": "a", "label": 1}]\n', "row 1 is not an object"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_of_the_wild(what: str, tmp_path: Path, make: Make) -> None:
    name, content, expected = FILES[what]
    (tmp_path / name).write_bytes(content)
    if isinstance(expected, list):
        assert _read(make, name) == expected
    else:
        with pytest.raises(UserError, match=expected):
            make(name)


def test_every_cut_of_a_parquet_file_is_refused(tmp_path: Path, make: Make) -> None:
    path = tmp_path / "a.parquet"
    _written(path, [f"film {at}" for at in range(100)])
    whole = path.read_bytes()
    for length in range(0, len(whole), max(1, len(whole) // 40)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"a.parquet (is empty|cannot be read)"):
            make("a.parquet")


@pytest.mark.parametrize("cell", [b"x" * (4 << 20), b'"open' + GOOD * 60_000])
def test_a_row_larger_than_a_block_says_so(
    cell: bytes, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "BLOCK_BYTES", 1 << 20)
    (tmp_path / "a.csv").write_bytes(HEAD + GOOD + cell + b",1\n")
    with pytest.raises(UserError, match=r"a.csv: after row \d+ comes one row of more than 1 MB"):
        make("a.csv")


@pytest.mark.parametrize("before", [0, 1, 3, 500])
def test_a_row_larger_than_a_small_block_is_read_with_all_others(
    before: int, tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading begins again in larger blocks, behind the rows that were read."""
    monkeypatch.setattr(readers, "SMALL_BYTES", 1 << 12)
    texts = [f"film {at}" for at in range(before)] + ["good " * 20_000] + [f"plot {at}" for at in range(700)]
    _written(tmp_path / "a.csv", texts)
    assert _read(make, "a.csv") == texts


MEASURED = """
import sys
from pathlib import Path
from tests.data.test_fuzz_data import grown
before, after = grown(Path(sys.argv[1]), sys.argv[2])
print(before, after)
"""


def grown(folder: Path, name: str) -> tuple[int, int]:
    """The largest resident size in MB before and after a file was read; called in a process of its own."""
    from tests.data.conftest import WORDS
    from tests.data.test_fuzz_data import small_tokenizer
    from tl_lightning.record import peak_memory_bytes

    tokenizer = small_tokenizer(WORDS)
    (folder / "small.csv").write_bytes(HEAD + GOOD)
    given_: dict[str, Any] = {"preprocessor": tokenizer, "target": "class", "cache_dir": str(folder / "cache")}
    TextFiles(train=str(folder / "small.csv"), val_fraction=0.2, test_fraction=0.2, **given_).setup()
    sizes = [peak_memory_bytes()["host"] >> 20]
    TextFiles(train=str(folder / name), val_fraction=0.1, test_fraction=0.1, max_length=16, **given_).setup()
    sizes.append(peak_memory_bytes()["host"] >> 20)
    return sizes[0], sizes[1]


def small_tokenizer(words: list[str]) -> PreTrainedTokenizerBase:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(WordLevel({word: at for at, word in enumerate(["[PAD]", "[UNK]", *words])}, "[UNK]"))
    backend.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend, model_max_length=64, unk_token="[UNK]", pad_token="[PAD]"
    )


def _measured(folder: Path, name: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(folder), name], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    return after - before


@pytest.mark.slow
def test_a_cell_of_ten_megabytes_is_read_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(HEAD + GOOD + b"good " * 2_000_000 + b",1\n" + GOOD)
    assert _measured(tmp_path, "a.csv") < 1500


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_file_of_300_megabytes_is_read_in_bounded_memory(kind: str, tmp_path: Path) -> None:
    text = "good " * 600
    with (tmp_path / f"a.{kind}").open("w") as file:
        file.write("text,label\n" if kind == "csv" else "")
        for at in range(100_000):
            row = (
                f"film {at} {text},{at % 2}\n"
                if kind == "csv"
                else f'{{"text": "film {at} {text}", "label": {at % 2}}}\n'
            )
            file.write(row)
    assert (tmp_path / f"a.{kind}").stat().st_size > 300e6
    assert _measured(tmp_path, f"a.{kind}") < 300
