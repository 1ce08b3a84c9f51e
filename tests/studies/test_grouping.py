"""What differs between runs is found, named and grouped by; seeds are repetitions."""

from pathlib import Path
from typing import Any

import pytest

from tests.studies.fabricate import changed
from tl_lightning.errors import UserError
from tl_lightning.identity import flat
from tl_lightning.studies.grouping import grouped, numeric
from tl_lightning.studies.reading import Run


def _run(number: int, choices: dict[str, Any] | None = None, overrides: tuple[str, ...] = (), **words: Any) -> Run:
    config = changed({key.replace("__", "."): value for key, value in words.items()})
    record: dict[str, Any] = {
        "started": f"2026-01-01T00:00:{number:02d}",
        "data": {"fingerprint": "same"},
        "overrides": list(overrides),
        "seed": config["seed"],
    }
    return Run(Path(f"run{number}"), record | ({"choices": choices} if choices else {}), flat(config))


def _labels(runs: list[Run], **words: Any) -> dict[str, list[int]]:
    found = grouped(runs, **words)
    return {group.label: sorted(run.seed for run in group.runs.values()) for group in found.groups}


def test_seeds_are_repetitions_and_what_no_result_hangs_on_is_ignored() -> None:
    runs = [
        _run(seed, seed=seed, output_dir=f"out{seed}", data__split_seed=seed, data__num_workers=seed,
             data__train=f"host{seed}/train.csv", name=f"n{seed}")
        for seed in range(3)
    ]  # fmt: skip
    assert _labels(runs) == {"all runs": [0, 1, 2]}
    assert grouped(runs).keys == []


def test_a_path_with_the_own_seed_is_the_same_for_all_seeds() -> None:
    runs = [
        _run(10 * k + seed, seed=seed, name=name, backbone__weights=weights and weights.format(seed))
        for k, (name, weights) in enumerate([("scratch", None), ("transfer", "out/pretrain/seed_{}/best.ckpt")])
        for seed in (1, 11)
    ]
    assert _labels(runs) == {"weights=null": [1, 11], "weights=out/pretrain/seed_*/best.ckpt": [1, 11]}
    found = grouped(runs, by=["name"])
    assert {group.label: list(group.runs) for group in found.groups} == {
        name: [("None", "1"), ("None", "11")] for name in ("scratch", "transfer")
    }
    other = [*runs, _run(50, seed=1, name="transfer", backbone__weights="out/pretrain/seed_2/best.ckpt")]
    assert len(grouped(other).groups) == 3, "another seed's weights are another thing"


def test_choices_name_the_groups_and_what_belongs_to_them_is_not_told_again() -> None:
    runs = [
        _run(k + 2 * s, {"strategy": name}, seed=s, strategy__layer_decay=decay)
        for k, (name, decay) in enumerate([("full", 1.0), ("layer_decay", 0.9)])
        for s in range(2)
    ]
    found = grouped(runs)
    assert found.keys == ["strategy"]
    assert found.notes == []
    assert _labels(runs) == {"full": [0, 1], "layer_decay": [0, 1]}


def test_without_choices_overrides_or_the_key_itself_tell() -> None:
    named = enumerate([("x", 1.0), ("y", 0.9)])
    typed = [_run(k, overrides=(f"strategy={n}",), strategy__layer_decay=d) for k, (n, d) in named]
    assert list(_labels(typed)) == ["x", "y"]
    bare = [_run(k, strategy__layer_decay=d) for k, d in enumerate([1.0, 0.9])]
    assert list(_labels(bare)) == ["layer_decay=1", "layer_decay=0.9"]
    targets = [_run(k, strategy___target_=f"tl_lightning.strategies.{n}") for k, n in enumerate(["LoRA", "Probe"])]
    assert list(_labels(targets)) == ["LoRA", "Probe"]


def test_one_choice_with_several_values_and_a_grid() -> None:
    runs = [
        _run(k, {"strategy": name}, strategy__layer_decay=decay, data__shots=shots)
        for k, (name, decay, shots) in enumerate(
            (n, d, s) for n, d in [("full", 1.0), ("layer_decay", 0.9), ("layer_decay", 0.8)] for s in (4, 16, 64)
        )
    ]
    found = grouped(runs)
    assert set(found.keys) == {"strategy", "data.shots", "strategy.layer_decay"}
    assert len(found.groups) == 9
    assert numeric(found.groups, found.keys) is None, "two keys are numbers"
    plain = grouped([run for run in runs if run.choices["strategy"] == "full"])
    assert (plain.keys, numeric(plain.groups, plain.keys)) == (["data.shots"], "data.shots")


def test_what_moves_along_is_said() -> None:
    runs = [_run(k, {"strategy": n}, optimizer__lr=lr) for k, (n, lr) in enumerate([("full", 2e-5), ("lora", 1e-3)])]
    found = grouped(runs)
    assert found.keys == ["strategy"]
    assert any("optimizer.lr" in note for note in found.notes)


def test_by_pools_what_else_differs_and_says_so() -> None:
    grid = [(name, shots, seed) for name in ("full", "lora") for shots in (4, 16) for seed in range(2)]
    runs = [_run(k, {"strategy": n}, seed=seed, data__shots=shots) for k, (n, shots, seed) in enumerate(grid)]
    found = grouped(runs, by=["strategy"])
    assert [len(group.runs) for group in found.groups] == [4, 4]
    assert any("data.shots" in note and "pooled" in note for note in found.notes)
    assert found.groups[0].runs.keys() == found.groups[1].runs.keys(), "paired by seed and shots"
    assert [len(g.runs) for g in grouped(runs, by=["strategy", "data.shots"]).groups] == [2, 2, 2, 2]


@pytest.mark.parametrize(("by", "said"), [("strategi", "did you mean strategy"), ("seed", "repetitions")])
def test_by_something_else(by: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        grouped([_run(0, {"strategy": "full"}), _run(1, {"strategy": "lora"})], by=[by])


def test_of_two_equal_runs_the_newer_counts() -> None:
    found = grouped([_run(2, seed=0), _run(1, seed=0), _run(3, seed=1)])
    (group,) = found.groups
    assert sorted(run.folder.name for run in group.runs.values()) == ["run2", "run3"]
    assert any("run1" in note for note in found.notes)


def test_a_dotted_name_is_kept_whole_and_a_missing_group_has_a_word() -> None:
    runs = [_run(0, backbone__name="resnet50.a1_in1k"), _run(1, backbone__name="vit.augreg")]
    assert list(_labels(runs)) == ["backbone.name=resnet50.a1_in1k", "backbone.name=vit.augreg"]
    averaged = [_run(0, {"average": None}, average=None), _run(1, {"average": "ema"}, average={"_target_": "x.Ema"})]
    assert list(_labels(averaged)) == ["null", "ema"]


def test_what_is_constant_on_each_test_set_tells_nothing() -> None:
    runs = [_run(k, {"strategy": n, "data": d}) for k, (n, d) in enumerate((n, d) for n in "ab" for d in "xy")]
    assert grouped(runs, within=[run.choices["data"] for run in runs]).keys == ["strategy"]


def test_of_two_runs_of_one_seed_the_newer_counts_in_any_time_zone() -> None:
    """As a text, 11:00+0200 comes after 10:00+0000; it is an hour before."""
    runs = []
    for number, moment in enumerate(("2026-01-01T11:00:00+0200", "2026-01-01T10:00:00+0000")):
        run = _run(number, seed=0)
        runs.append(Run(run.folder, {**run.record, "started": moment}, run.config))
    for order in (runs, runs[::-1]):
        found = grouped(order)
        assert [run.folder.name for run in found.groups[0].runs.values()] == ["run1"]
        assert found.notes == ["left out: run0: run1 is the same run with the same seed"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([0.8, 1], [0.8, 1.0]),
        (1, 1.0),
        (1_000_000, 1e6),
        ([[2, 4], [5, "all"]], [[2.0, 4], [5, "all"]]),
        ([{"a": 1, "b": 2}], [{"b": 2.0, "a": 1}]),
        ((0.9, 0.999), [0.9, 0.999]),
    ],
)
def test_values_that_are_one_are_one_group(one: Any, other: Any) -> None:
    found = grouped([_run(0, seed=0, data__shots=one), _run(1, seed=1, data__shots=other)])
    assert found.keys == []
    assert len(found.groups) == 1


@pytest.mark.parametrize(
    ("one", "other"), [(0.1234567, 0.1234568), (1, 2), ([0.8, 1], [0.81, 1]), (True, 1), (1e16, 1e16 + 2)]
)
def test_values_that_are_two_are_two_groups(one: Any, other: Any) -> None:
    found = grouped([_run(0, seed=0, data__shots=one), _run(1, seed=1, data__shots=other)])
    assert found.keys == ["data.shots"]
    assert len(found.groups) == 2
