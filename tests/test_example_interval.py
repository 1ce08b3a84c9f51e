"""Intervals over test examples: inside what a metric can be, wide where little was seen, right as often as they say."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from tests.studies.fabricate import OBJECTIVES, outcome
from tl_lightning import bootstrap
from tl_lightning.bootstrap import intervals
from tl_lightning.example_interval import imbalance, over_examples, proportion
from tl_lightning.metric_scales import SCALES, UNKNOWN, scale_of
from tl_lightning.objectives import MultiClass, Objective

STEPS = ("accuracy", "f1", "precision", "recall", "mcc")


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FEWEST", "RESAMPLES"):
        monkeypatch.setattr(bootstrap, name, 40)


def _intervals(kind: str, outputs: torch.Tensor, target: torch.Tensor) -> dict[str, tuple[float, float]]:
    objective: Objective = OBJECTIVES[kind]
    tested = outcome(objective, outputs, target)
    return intervals(objective.metrics(outputs.shape[1]), tested.scores, tested.target, tested.losses)


def _outputs(right: torch.Tensor, target: torch.Tensor, classes: int = 2) -> torch.Tensor:
    """Sure outputs that are right where they should be."""
    shown = torch.where(right, target, (target + 1) % classes)
    return 8.0 * torch.eye(classes)[shown]


@pytest.mark.parametrize(("hits", "of"), [(0, 1), (1, 1), (0, 30), (30, 30), (29, 30), (7, 30)])
def test_the_interval_of_a_share_is_that_of_scipy(hits: int, of: int) -> None:
    expected = scipy.stats.binomtest(hits, of).proportion_ci(0.95, method="exact")
    assert proportion(hits, of, 0.05) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("hits", [0, 1, 37, 99, 100])
def test_the_interval_of_a_run_s_accuracy_is_exact(hits: int) -> None:
    target = torch.arange(100) % 2
    found = _intervals("MultiClass", _outputs(torch.arange(100) < hits, target), target)
    expected = scipy.stats.binomtest(hits, 100).proportion_ci(0.95, method="exact")
    assert found["accuracy"] == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("right", [True, False])
def test_one_test_row_says_almost_nothing(right: bool) -> None:
    target = torch.tensor([1])
    found = _intervals("MultiClass", _outputs(torch.tensor([right]), target), target)
    assert found["accuracy"] == pytest.approx((0.025, 1.0) if right else (0.0, 0.975))
    for name, (low, high) in found.items():
        assert high - low > 0.9 * SCALES[name].width, name
    assert not {"loss", "ece", "auroc"} & set(found), "of these nothing can be said"
    number = _intervals("Regression", torch.ones(1, 1), torch.zeros(1))
    assert number == {}


@pytest.mark.parametrize("n", [2, 5, 20, 300])
def test_without_a_mistake_the_interval_is_not_a_point(n: int) -> None:
    target = torch.arange(n) % 2
    found = _intervals("MultiClass", _outputs(torch.ones(n, dtype=torch.bool), target), target)
    for name in (*STEPS, "auroc"):
        low, high = found[name]
        assert high == 1.0
        assert (low - SCALES[name].low) / SCALES[name].width <= 0.025 ** (1 / n) + 1e-9, name


def test_a_rare_class_counts_as_the_few_examples_it_has() -> None:
    target = (torch.arange(400) % 40 == 0).long()  # ten positives
    found = _intervals("MultiClass", _outputs(torch.ones(400, dtype=torch.bool), target), target)
    assert found["accuracy"][0] > 0.99
    assert found["recall"][0] < 0.025 ** (1 / 60), "as of forty examples, not of four hundred"
    assert imbalance([10, 390], 400) == pytest.approx(400 * (1 / 10 + 1 / 390) / 4)
    assert imbalance([200, 200], 400) == imbalance([400, 0], 400) == imbalance([], 400) == 1.0


@pytest.mark.parametrize("kind", list(OBJECTIVES))
@pytest.mark.parametrize("noise", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("n", [1, 2, 12, 150])
def test_no_interval_leaves_what_the_metric_can_be(kind: str, noise: float, n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    target = {
        "MultiClass": torch.randint(0, 3, (n,), generator=rng),
        "MultiLabel": (torch.rand(n, 3, generator=rng) > 0.5).float(),
        "Regression": torch.randn(n, generator=rng),
    }[kind]
    clean = {
        "MultiClass": lambda: 4 * torch.eye(3)[target],
        "MultiLabel": lambda: 8 * target - 4,
        "Regression": lambda: target[:, None],
    }[kind]()
    for name, (low, high) in _intervals(kind, clean + noise * torch.randn(clean.shape, generator=rng), target).items():
        scale = SCALES[name]
        assert scale.low <= low < high <= scale.high, name
        assert math.isfinite(low + high)


def test_every_metric_of_the_objectives_has_a_scale() -> None:
    names = {name for objective in OBJECTIVES.values() for name in objective.metrics(3)}
    assert names | {"loss"} == set(SCALES)
    assert scale_of("perplexity") == UNKNOWN


def test_a_name_that_means_something_else_is_no_bound() -> None:
    assert scale_of("accuracy", [0.9]).high == 1
    assert scale_of("accuracy", [93.1, 94.0]) == UNKNOWN, "percent"
    assert scale_of("loss", [-1.3]) == UNKNOWN, "a likelihood of the user's own"
    assert scale_of("mcc", [1.0000001, math.nan]) == SCALES["mcc"]
    low, _ = over_examples(-1.3, np.linspace(-2, -1, 50), scale_of("loss", [-1.3]), 30, 0.05) or (0.0, 0.0)
    assert low == pytest.approx(-2, abs=0.1)


def test_seeds_that_agree_are_no_more_examples_and_seeds_that_do_not_are_some() -> None:
    rng, n, seeds = np.random.default_rng(0), 400, 10
    scale = SCALES["accuracy"]
    weights = rng.multinomial(n, np.full(n, 1 / n), 2000) / n
    alike = np.repeat(rng.random((1, n)) < 0.8, seeds, axis=0)
    apart = rng.random((seeds, n)) < 0.8
    widths = []
    for right in (alike, apart):
        mean = right.mean(axis=0)
        low, high = over_examples(float(mean.mean()), weights @ mean, scale, n, 0.05, seeds) or (0.0, 0.0)
        widths.append(high - low)
    exact = proportion(alike[0].sum(), n, 0.05)
    assert widths[0] == pytest.approx(exact[1] - exact[0], rel=0.1)
    assert widths[1] == pytest.approx(widths[0] / np.sqrt(seeds), rel=0.2)


@pytest.mark.parametrize("metric", ["mse", "mae", "pearson"])
def test_few_numbers_have_intervals_as_wide_as_students(metric: str) -> None:
    """Percentiles alone hold the true mean of ten normal numbers in 90% of cases, not 95."""
    rng, n = np.random.default_rng(0), 10
    held = []
    for _ in range(600):
        values = rng.normal(0.5, 0.1, n)
        draws = rng.choice(values, (400, n)).mean(axis=1)
        low, high = over_examples(float(values.mean()), draws, SCALES[metric], n, 0.05) or (0.0, 0.0)
        held.append(low <= 0.5 <= high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_a_calibration_error_loses_its_bias() -> None:
    """Of a calibrated model the error is 0, and what is measured on few examples is chance alone."""
    rng = torch.Generator().manual_seed(0)
    sure = 0.5 + 0.5 * torch.rand(300, generator=rng)
    target = (torch.rand(300, generator=rng) > sure).long()
    logits = torch.stack([sure.logit(), torch.zeros(300)], dim=1)
    low, high = _intervals("MultiClass", logits, target)["ece"]
    measured = float(MultiClass().metrics(2)["ece"](logits.softmax(dim=1), target))
    assert measured > 0.03
    assert low < measured / 10, "percentiles of resamples would begin above what was measured"
    assert measured <= high < 2 * measured
