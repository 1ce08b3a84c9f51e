"""Held-out parts are stratified, disjoint and fixed; fewer rows to train on are nested."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tl_lightning.data import TextFiles
from tl_lightning.data.splits import first_fraction, first_shots, hold_out, strata, stratified_order

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]
CLASSES = np.repeat([0, 1, 2], [600, 300, 100])


def _rows(data: TextFiles, split: str) -> set[int]:
    return {row for batch in getattr(data, f"{split}_dataloader")() for row in batch.index.tolist()}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [10, 100, 555, 1000])
def test_every_beginning_is_stratified(seed: int, size: int) -> None:
    counts = np.bincount(CLASSES[stratified_order(CLASSES, seed)[:size]], minlength=3)
    assert np.abs(counts - size * np.array([0.6, 0.3, 0.1])).max() <= 1.5


def test_parts_are_disjoint_and_all() -> None:
    parts = hold_out(CLASSES, [0.1, 0.2], seed=0)
    assert [len(part) for part in parts] == [100, 200, 700]
    assert sorted(np.concatenate(parts)) == list(range(1000))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


def test_only_row_of_a_class_stays_in_train() -> None:
    classes = np.array([0] * 20 + [1] * 20 + [2])
    for seed in range(20):
        assert 40 in hold_out(classes, [0.1, 0.1], seed)[-1]


def test_fractions_are_nested_and_stratified() -> None:
    parts = [set(first_fraction(CLASSES, fraction, seed=3).tolist()) for fraction in (0.1, 0.2, 1.0)]
    assert parts[0] < parts[1] < parts[2] == set(range(1000))
    assert np.bincount(CLASSES[sorted(parts[0])]).tolist() == [60, 30, 10]
    assert parts[0] != set(first_fraction(CLASSES, 0.1, seed=4).tolist())


def test_shots_are_nested_and_per_class() -> None:
    parts = [set(first_shots(CLASSES, "abc", shots, seed=3).tolist()) for shots in (8, 16)]
    assert parts[0] < parts[1]
    assert [np.bincount(CLASSES[sorted(part)]).tolist() for part in parts] == [[8, 8, 8], [16, 16, 16]]
    assert parts[0] != set(first_shots(CLASSES, "abc", 8, seed=4).tolist())


def test_shots_beyond_a_class_take_it_whole(caplog: pytest.LogCaptureFixture) -> None:
    part = first_shots(CLASSES, "abc", 150, seed=0)
    assert np.bincount(CLASSES[part]).tolist() == [150, 150, 100]
    assert [record.message for record in caplog.records] == [
        "data.shots=150: the class 'c' has only 100 rows, all of them are used."
    ]


def test_fraction_that_loses_a_class_warns(caplog: pytest.LogCaptureFixture) -> None:
    first_fraction(np.array([0] * 50 + [1]), 0.1, seed=0)
    assert "leaves 1 of the classes without a row" in caplog.text


def test_numbers_are_stratified_by_tenths() -> None:
    numbers = np.random.default_rng(0).normal(size=1000)
    val, _ = hold_out(strata(numbers), [0.1], seed=0)
    assert np.bincount(strata(numbers)[val]).tolist() == [10] * 10


@pytest.mark.parametrize("target", ["class", "number", "labels"])
def test_held_out_parts_do_not_depend_on_the_shrinking(write: Write, make: Make, target: str) -> None:
    write("all.csv", [{"text": f"film {row}", "label": row % 4} for row in range(200)])
    whole = make("all.csv", target=target)
    for options in ({"train_fraction": 0.25}, {"seed": 5}, {"train_fraction": 0.5, "seed": 5}):
        fewer = make("all.csv", target=target, **options)
        assert _rows(fewer, "val") == _rows(whole, "val")
        assert _rows(fewer, "test") == _rows(whole, "test")
        assert _rows(fewer, "train") <= _rows(whole, "train")
    assert _rows(make("all.csv", target=target, split_seed=1), "val") != _rows(whole, "val")


def test_shots_through_the_module(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    write("all.csv", reviews)
    eight, four = (make("all.csv", shots=shots) for shots in (8, 4))
    assert eight.summary["classes"] == {"neg": 8, "pos": 8}
    assert _rows(four, "train") < _rows(eight, "train")
    assert eight.num_outputs == 2
    assert eight.fingerprint != four.fingerprint
    assert eight.summary["fingerprints"]["test"] == four.summary["fingerprints"]["test"]
