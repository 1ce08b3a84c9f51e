"""Metrics from stored predictions are those of the objectives, and resample as if rows were drawn."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.studies.fabricate import OBJECTIVES, outcome, write_run
from tl_lightning.studies.outcomes import Outcomes, read_outcomes
from tl_lightning.studies.resampling import draws, how_many, resampled
from tl_lightning.studies.scoring import SCORERS, Weighted, values
from tl_lightning.task import Predictions

FOUR = ("a", "b", "c", "d")


def _tested(kind: str, n: int = 60, seed: int = 0) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(n, 1 if kind == "Regression" else 4, generator=generator)
    target = {
        "MultiClass": torch.randint(0, 3, (n,), generator=generator),  # the fourth class never occurs
        "MultiLabel": (torch.rand(n, 4, generator=generator) > 0.6).float() * torch.tensor([1.0, 1.0, 1.0, 0.0]),
        "Regression": torch.randn(n, generator=generator).round(decimals=1),  # with ties
    }[kind]
    return outcome(OBJECTIVES[kind], outputs, target)


def _written(folder: Path, kind: str, tested: Predictions) -> tuple[Outcomes, dict[str, float]]:
    import json

    classes = () if kind == "Regression" else FOUR[: tested.scores.shape[1]]
    write_run(folder, {"objective": {"_target_": f"tl_lightning.objectives.{kind}"}}, tested, classes)
    metrics = json.loads((folder / "metrics.json").read_text())
    return read_outcomes(folder), {k[5:]: v for k, v in metrics.items() if k.startswith("test/")}


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_definitions_are_those_of_the_objective(kind: str, tmp_path: Path) -> None:
    outcomes, recorded = _written(tmp_path, kind, _tested(kind))
    assert set(SCORERS[outcomes.kind]) == set(recorded), "every metric of the objective is defined here"
    again = values(outcomes, recorded)
    assert again == pytest.approx(recorded, abs=1e-6)


@pytest.mark.parametrize(
    ("outputs", "target"),
    [
        ([[0, 1], [0, 1], [0, 1]], [0, 1, 0]),  # one class alone is predicted
        ([[1, 0], [0, 1], [0, 1]], [1, 1, 1]),  # one class alone is true
        ([[1, 0], [0, 1]], [0, 1]),  # all right
        ([[1, 0], [0, 1]], [1, 0]),  # all wrong
        ([[0, 1], [0, 1]], [1, 1]),  # all right, one class
        ([[1, 0], [1, 0], [1, 0], [1, 0], [1, 0]], [0, 0, 1, 1, 1]),
    ],
)
def test_one_sided_predictions_give_what_the_record_says(
    outputs: list[list[int]], target: list[int], tmp_path: Path
) -> None:
    tested = outcome(OBJECTIVES["MultiClass"], torch.tensor(outputs).float(), torch.tensor(target))
    outcomes, recorded = _written(tmp_path, "MultiClass", tested)
    known = {name: value for name, value in recorded.items() if value is not None}
    assert "mcc" in known
    assert values(outcomes, known) == pytest.approx(known, abs=1e-5)


@pytest.mark.parametrize("kind", list(OBJECTIVES))
def test_weights_are_rows_drawn_so_often(kind: str, tmp_path: Path) -> None:
    tested = _tested(kind)
    outcomes, _ = _written(tmp_path / "all", kind, tested)
    weights = next(draws(len(outcomes), 3))
    for row in weights:
        drawn = torch.tensor(np.repeat(np.arange(len(row)), row.astype(int)))
        repeated = Predictions(drawn, tested.scores[drawn], tested.target[drawn], tested.losses[drawn])
        _, recorded = _written(tmp_path / "drawn", kind, repeated)
        again = {name: float(SCORERS[outcomes.kind][name](Weighted(outcomes, row[None]))[0]) for name in recorded}
        assert again == pytest.approx(recorded, abs=2e-6)


def test_many_classes_and_few_count_alike() -> None:
    from tl_lightning.studies import scoring

    rng = np.random.default_rng(0)
    weights, codes = rng.random((3, 50)), rng.integers(0, 90, 50)
    many = scoring.by_code(weights, codes, 100)
    few = weights @ np.eye(100)[codes]
    assert many == pytest.approx(few)


def test_the_same_examples_are_drawn_for_all_runs_and_the_interval_is_about_right(tmp_path: Path) -> None:
    tested = _tested("MultiClass", n=400)
    one, recorded = _written(tmp_path, "MultiClass", tested)
    first, second = resampled(["accuracy"], [one, one], 500)["accuracy"]
    assert (first == second).all()
    expected = np.sqrt(recorded["accuracy"] * (1 - recorded["accuracy"]) / 400)
    assert first.std() == pytest.approx(expected, rel=0.15)
    assert first.mean() == pytest.approx(recorded["accuracy"], abs=4 * expected / np.sqrt(500))


def test_draws_come_in_parts_of_bounded_size() -> None:
    parts = list(draws(400_000, 7))
    assert [len(part) for part in parts] == [2, 2, 2, 1]
    assert all((part.sum(axis=1) == 400_000).all() for part in parts)
    assert how_many(1000, 100) == 1000
    assert how_many(100_000, 100) == 200
