"""Texts are tokenised once; the cache is whole or not there; cleaning."""

import logging
import pickle
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tl_lightning.data import TextFiles, tables
from tl_lightning.data.clean import STEPS, clean
from tl_lightning.data.encoding import Encoder
from tl_lightning.data.readers import READERS, Reader
from tl_lightning.data.store import FORMAT, Store, TokenStore, Writer

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each call of the tokenizer got."""
    counts: list[int] = []
    encode = Encoder.encode

    def counting(self: Encoder, texts: Any, pairs: Any) -> Any:
        counts.append(len(texts))
        return encode(self, texts, pairs)

    monkeypatch.setattr(Encoder, "encode", counting)
    return counts


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files whose rows were read, one entry each time."""
    names: list[str] = []

    def counting(kind: Reader) -> Reader:
        def batches(path: Path, columns: Any) -> Any:
            names.append(path.name)
            return kind.batches(path, columns)

        return kind._replace(batches=batches)

    monkeypatch.setattr(tables, "READERS", {extension: counting(kind) for extension, kind in READERS.items()})
    return names


@pytest.fixture
def table(write: Write, reviews: list[dict[str, Any]]) -> Path:
    return write("all.csv", reviews)


def _caches(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "cache/text").iterdir() if path.is_dir()]


def _tokens(tmp_path: Path) -> Path:
    (found,) = (path for path in _caches(tmp_path) if (path / "tokens.bin").exists())
    return found


def _rows(tmp_path: Path) -> Path:
    (found,) = (path for path in _caches(tmp_path) if (path / "rows.bin").exists())
    return found


def test_second_run_does_not_tokenise(make: Make, table: Path, encoded: list[int]) -> None:
    first, second = make("all.csv"), make("all.csv", seed=9, batch_size=3, shots=2)
    assert encoded == [60]
    assert first.texts("train", [5]) == second.texts("train", [5])


@pytest.mark.parametrize(
    "options",
    [
        {"clean": ["lower"]},
        {"max_length": 9},
        {"on_empty": "drop"},
        {"target": "labels"},
        {"text_pair": "label2"},
    ],
)
def test_recipe_is_part_of_the_key(
    write: Write, make: Make, reviews: list[dict[str, Any]], encoded: list[int], options: dict[str, Any]
) -> None:
    write("all.csv", [{**row, "label2": "film"} for row in reviews])
    make("all.csv")
    make("all.csv", **options)
    assert encoded == [60, 60]


def test_content_is_part_of_the_key(
    write: Write, make: Make, table: Path, reviews: list[dict[str, Any]], encoded: list[int]
) -> None:
    make("all.csv")
    reviews[0]["text"] += " not"
    write("all.csv", reviews)
    make("all.csv")
    assert encoded == [60, 60]


def _damaged(path: Path, damage: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["meta.json", "tokens.bin", "offsets.bin", "truncated.bin"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_tokens_are_built_again_from_the_rows(
    make: Make, table: Path, tmp_path: Path, encoded: list[int], reads: list[str], name: str, damage: str, caplog: Any
) -> None:
    before = make("all.csv").fingerprint
    _damaged(_tokens(tmp_path) / name, damage)
    assert make("all.csv").fingerprint == before
    assert encoded == [60, 60]
    assert "is damaged" in caplog.text
    make("all.csv")
    assert encoded == [60, 60]
    assert reads == ["all.csv"]


@pytest.mark.parametrize("name", ["meta.json", "rows.bin", "texts.arrow", "codes.bin", "hashes.bin"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_rows_are_read_again(
    make: Make, table: Path, tmp_path: Path, encoded: list[int], reads: list[str], name: str, damage: str, caplog: Any
) -> None:
    before = make("all.csv").fingerprint
    _damaged(_rows(tmp_path) / name, damage)
    assert make("all.csv").fingerprint == before
    assert reads == ["all.csv"] * 2
    assert "is damaged" in caplog.text
    make("all.csv")
    assert reads == ["all.csv"] * 2
    assert encoded == [60], "the tokens fit the same rows"


def test_tokens_whose_rows_are_gone_are_no_tokens(make: Make, table: Path, tmp_path: Path) -> None:
    make("all.csv")
    assert len(TokenStore(_tokens(tmp_path))) == 60
    shutil.rmtree(_rows(tmp_path))
    with pytest.raises(OSError, match=r"meta.json"):
        TokenStore(_tokens(tmp_path))


def test_one_read_of_a_file_serves_all_tokenizers_and_the_look_before(
    make: Make, table: Path, tmp_path: Path, encoded: list[int], reads: list[str]
) -> None:
    data = TextFiles(train=str(table), preprocessor=None, target="class", cache_dir=str(tmp_path / "cache"))  # type: ignore[arg-type]
    data.look()
    data.look()
    assert (reads, encoded) == (["all.csv"], [])
    make("all.csv")
    make("all.csv", max_length=9)
    assert (reads, encoded) == (["all.csv"], [60, 60])


def test_older_format_is_built_again(
    make: Make, table: Path, tmp_path: Path, encoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    make("all.csv")
    meta = _tokens(tmp_path) / "meta.json"
    meta.write_text(meta.read_text().replace(f'"format": {FORMAT}', '"format": 0'))
    make("all.csv")
    assert encoded == [60, 60]


def test_killed_build_leaves_nothing_behind(
    make: Make, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "encode", killed)
        with pytest.raises(KeyboardInterrupt):
            make("all.csv")
    assert _caches(tmp_path) == [_rows(tmp_path)], "which were read before, whole"
    assert make("all.csv").summary["rows"]["train"] == 48


def test_left_overs_of_a_killed_run_are_swept(make: Make, table: Path, tmp_path: Path) -> None:
    make("all.csv")
    folders = _caches(tmp_path)
    for folder in folders:
        folder.rename(folder.with_name(f"{folder.name}.tmpabc"))
    make("all.csv")
    assert sorted(_caches(tmp_path)) == sorted(folders)


def test_finished_cache_needs_no_lock(make: Make, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("all.csv")

    def read_only(*_: Any) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr("filelock.FileLock", read_only)
    assert make("all.csv").summary["rows"]["train"] == 48


def test_two_builders_build_once(make: Make, table: Path, encoded: list[int]) -> None:
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(make, ["all.csv"] * 2))
    assert both[0].fingerprint == both[1].fingerprint
    assert encoded == [60]


def test_arrays_are_mapped_and_small(make: Make, table: Path) -> None:
    store = make("all.csv").train_dataloader().dataset.store  # type: ignore[attr-defined]
    assert isinstance(store["tokens"], np.memmap)
    assert (store["tokens"].dtype, store["codes"].dtype) == (np.uint16, np.int32)
    assert "types" not in store


def test_ten_times_the_rows_cost_a_process_nothing_but_their_places(write: Write, make: Make) -> None:
    """Tokens, labels, hashes and texts are mapped; a row's own share is its length and its place in the split."""
    own, mapped = [], []
    for rows in (400, 4000):
        write("many.csv", [{"text": f"good film {row}", "label": row % 2} for row in range(rows)])
        before = pa.total_allocated_bytes()
        part: Any = make("many.csv").train_dataloader().dataset
        arrays = [part.store[name] for name in part.store.meta["arrays"]]
        assert all(isinstance(array, np.memmap) for array in arrays)
        assert pa.total_allocated_bytes() - before < 1 << 16, "the texts too"
        mapped.append(sum(array.nbytes for array in arrays))
        held = [value for owner in (part, part.store) for value in vars(owner).values()]
        own.append(sum(v.nbytes for v in held if isinstance(v, np.ndarray) and not isinstance(v, np.memmap)))
        assert len(pickle.dumps(part.store)) < 1000, "a worker maps the files itself"
    assert mapped[1] > 9 * mapped[0]
    assert (own[1] - own[0]) / 3600 <= 16


def test_memory_is_bounded(write: Write, make: Make, encoded: list[int]) -> None:
    write("big.csv", [{"text": f"film {row}", "label": row % 2} for row in range(5000)])
    write("big.jsonl", [{"text": f"film {row}", "label": row % 2} for row in range(5000)])
    assert make("big.csv").fingerprint == make("big.jsonl").fingerprint
    assert sum(encoded) == 10000
    assert max(encoded) <= 1024


def test_truncation_does_not_leak_into_the_tokenizer(make: Make, table: Path, tokenizer: Any) -> None:
    make("all.csv", max_length=5)
    assert tokenizer.backend_tokenizer.truncation is None
    assert len(tokenizer("good " * 20)["input_ids"]) == 22


def test_longer_of_a_pair_is_cut_first(write: Write, make: Make) -> None:
    write("all.csv", [{"text": "good " * 20, "other": "bad film", "label": row % 2} for row in range(20)])
    batch = next(iter(make("all.csv", text_pair="other", max_length=12).train_dataloader()))
    assert batch.inputs["input_ids"][0].tolist() == [2, *[4] * 7, 3, 5, 6, 3]


def test_environment_names_the_cache(make: Make, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path / "elsewhere"))
    assert make("all.csv", cache_dir=None).summary["cache"] == str(tmp_path / "elsewhere/text")


CLEAN = [
    ("unicode", "e\u0301", "\u00e9"),
    ("html", "a<br />b &amp; &lt;c&gt; 1 < 2", "a b & <c> 1 < 2"),
    ("urls", "see https://x.org/a?b=1 and www.y.com", "see http and http"),
    ("users", "@ann met @bob at a@b.org", "@user met @user at a@b.org"),
    ("repeats", "sooooo good!!! ....", "sooo good!!! ..."),
    ("whitespace", "  a \n\t b ", "a b"),
    ("lower", "GOOD", "good"),
]


@pytest.mark.parametrize(("step", "text", "expected"), CLEAN)
def test_cleaning_steps(step: str, text: str, expected: str) -> None:
    assert clean(text, [step]) == expected


def test_every_step_is_tested_and_order_counts() -> None:
    assert {step for step, _, _ in CLEAN} == set(STEPS)
    assert clean("&lt;b&gt; x", ["html", "html"]) != clean("&lt;b&gt; x", ["html"])


def test_cleaning_reaches_the_model_and_leaves_the_raw_text(write: Write, make: Make) -> None:
    write("all.csv", [{"text": f"<b>good</b> {row}", "label": row % 2} for row in range(20)])
    data = make("all.csv", clean=["html", "whitespace"])
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs["input_ids"][0].tolist() == [2, 4, 1, 3]
    assert data.texts("train", batch.index[:1].tolist()) == [f"<b>good</b> {batch.index[0]}"]


def test_warnings_are_logged_under_the_package(make: Make, table: Path, caplog: pytest.LogCaptureFixture) -> None:
    make("all.csv", max_length=8)
    assert {(record.name, record.levelno) for record in caplog.records} == {
        ("tl_lightning.data.audit", logging.WARNING)
    }


def test_some_texts_are_read_without_the_others(tmp_path: Path) -> None:
    """A table of the most wrong rows must not hold millions of texts in memory."""
    rows = np.arange(0, 4000, 2)
    with Writer(tmp_path) as writer:
        for part in np.array_split(rows, 7):
            writer.add("rows", part, np.int64)
            pairs = [f"pair {row}" for row in part.tolist()]
            writer.add_texts([f"{row} {'good ' * 500}" for row in part.tolist()], pairs)
        writer.add_texts([], [])
        writer.finish(first_rows={})
    whole, pool = (tmp_path / "texts.arrow").stat().st_size, pa.proxy_memory_pool(pa.default_memory_pool())
    store, before = Store(tmp_path), pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        found = store.texts(np.array([3998, 0, 570, 572, 0]))
    finally:
        pa.set_memory_pool(before)
    assert [text.split(" ")[0] for text in found] == ["3998", "0", "570", "572", "0"]
    assert [text.split(" | ")[1] for text in found] == [f"pair {row}" for row in (3998, 0, 570, 572, 0)]
    assert whole > 4e6
    assert pool.max_memory() < whole / 20
    with pytest.raises(IndexError, match=r"rows \[1\] are not in the split"):
        store.texts(np.array([0, 1]))
