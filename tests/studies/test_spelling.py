"""Two values that mean the same are one word, whoever typed or stored them."""

from typing import Any

import pytest

from tl_lightning.identity import flat, identity, meaning
from tl_lightning.resume import _differences
from tl_lightning.studies.choosing import matches
from tl_lightning.studies.multirun import _words
from tl_lightning.studies.spelling import spelled, word

SAME: list[tuple[Any, Any]] = [
    ([0.8, 1], [0.8, 1.0]),
    (1, 1.0),
    (0, -0.0),
    (1e-3, 0.001),
    ((0.9, 0.999), [0.9, 0.999]),
    ([{"a": 1, "b": [2]}], [{"b": [2.0], "a": 1.0}]),
]
OTHER: list[tuple[Any, Any]] = [
    (True, 1),
    (False, 0),
    (None, 0),
    (None, "None"),
    (True, "True"),
    (1, "1"),
    ([1, 2], [2, 1]),
    (0.1234567, 0.1234568),
    (2**60, 2**60 + 1),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_a_run_is_known_by_its_values(one: Any, other: Any) -> None:
    a, b = ({"data": {"crop_scale": value}, "backbone": {}} for value in (one, other))
    assert meaning(one) == meaning(other)
    assert identity(a) == identity(b)
    assert _differences(a, b) == []
    assert word(one) == word(other)
    assert identity({"data": {}, "backbone": {}, "a": 1, "b": 2}) == identity(
        {"b": 2, "a": 1, "backbone": {}, "data": {}}
    )


def test_one_batch_is_not_all_of_them() -> None:
    """Where a float is a share and a whole number counts batches, as Lightning's limits do."""
    key = "trainer.limit_train_batches"
    one, whole = ({"data": {}, "backbone": {}, "trainer": {"limit_train_batches": value}} for value in (1, 1.0))
    assert identity(one)["config"] != identity(whole)["config"]
    assert _differences(one, whole) == [f"{key}: 1 then, 1.0 now"]
    assert (word(1, key), word(1.0, key)) == (spelled("1", key), spelled("1.0", key)) == ("1", "1.0")
    assert not matches("1", "1.0", key)
    assert matches("0.001", "1e-3", key)
    assert _words([f"{key}=1"]) != _words([f"{key}=1.0"])


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_runs_with_other_values_are_other_runs(one: Any, other: Any) -> None:
    a, b = ({"data": {"crop_scale": value}, "backbone": {}} for value in (one, other))
    assert identity(a)["config"] != identity(b)["config"]
    assert _differences(a, b)
    assert flat(a) != flat(b) or one == other


@pytest.mark.parametrize(
    ("typed", "value"),
    [
        ("1e-3", 0.001),
        ("0.0010", 0.001),
        ("1", 1.0),
        ("1.0", 1),
        ("[0.8,1.0]", [0.8, 1]),
        ("[a,'b']", ["a", "b"]),
        ("{b: 1, a: 2.0}", {"a": 2, "b": 1}),
        ("True", True),
        ("null", None),
        ("full", "full"),
        ("bert_base*", "bert_base*"),
        ("", ""),
        ("[", "["),
        ("-", "-"),
        ("2026-01-31", "2026-01-31"),
    ],
)
def test_what_is_typed_means_its_value(typed: str, value: Any) -> None:
    assert spelled(typed) == word(value)
    assert matches(word(value), typed)


def test_one_of_several_and_patterns_match_as_ever() -> None:
    assert matches("0.001", "1e-2,1e-3")
    assert matches("bert_base", "gpt*,bert_*")
    assert not matches("0.001", "1e-2")
    assert not matches("true", "1")


def test_deep_words_are_taken_as_they_are() -> None:
    for typed in ("[" * 100_000, "{a: " * 1000, "1" * 100_000, "[&a [*a]]"):
        assert spelled(typed) == typed


def test_a_study_is_known_by_the_values_of_its_words() -> None:
    assert _words(["data.crop_scale=[0.8,1]", "optimizer.lr=1e-3,1e-2", "resume=auto"]) == _words(
        ["optimizer.lr=1e-3,1e-2", "data.crop_scale=[0.8,1.0]"]
    )
