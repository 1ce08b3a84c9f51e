"""One contract for all objectives, and their numbers against scikit-learn."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as sk
from torch import Tensor
from torch.nn import functional as F

from tl_lightning.bootstrap import intervals
from tl_lightning.errors import UserError
from tl_lightning.objectives import MultiClass, MultiLabel, Objective, Regression, mode

N, C = 60, 3


def _class_target() -> Tensor:
    return torch.arange(N) % C


def _label_target() -> Tensor:
    return (torch.rand(N, C, generator=torch.Generator().manual_seed(1)) > 0.6).float()


def _number_target() -> Tensor:
    return torch.linspace(-1, 4, N)


CASES: list[tuple[Callable[..., Objective], int, Callable[[], Tensor]]] = [
    (MultiClass, C, _class_target),
    (MultiLabel, C, _label_target),
    (Regression, 1, _number_target),
]


def _outputs(width: int) -> Tensor:
    return torch.randn(N, width, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("kind", "width", "target"), CASES)
def test_contract(kind: Callable[..., Objective], width: int, target: Callable[[], Tensor]) -> None:
    objective, outputs, truth = kind(), _outputs(width), target()
    losses, scores = objective.losses(outputs, truth), objective.scores(outputs)
    assert losses.shape == (N,)
    assert (losses >= 0).all()
    assert objective.predict(scores).shape == truth.shape
    calculator = objective.metrics(width)
    assert objective.monitor in set(calculator.keys())
    calculator.update(scores, truth)
    assert all(torch.isfinite(value) for value in calculator.compute().values())


@pytest.mark.parametrize(("kind", "width", "target"), CASES)
def test_loss_falls_along_its_gradient(
    kind: Callable[..., Objective], width: int, target: Callable[[], Tensor]
) -> None:
    objective, truth = kind(), target()
    outputs = _outputs(width).requires_grad_()
    before = objective.losses(outputs, truth).mean()
    before.backward()  # type: ignore[no-untyped-call]
    assert outputs.grad is not None
    after = objective.losses(outputs.detach() - 0.1 * outputs.grad, truth).mean()
    assert after < before


@pytest.mark.parametrize("kind", [MultiClass, MultiLabel, Regression])
def test_an_unknown_monitor_names_the_metrics_there_are(kind: Callable[..., Objective]) -> None:
    with pytest.raises(UserError, match=r"monitor=acuracy.*choose one of: loss, "):
        kind(monitor="acuracy").metrics(C)


def test_multiclass_metrics_are_those_of_scikit_learn() -> None:
    objective, outputs, truth = MultiClass(), _outputs(C), _class_target()
    scores = objective.scores(outputs)
    calculator = objective.metrics(C)
    calculator.update(scores, truth)
    found = {name: float(value) for name, value in calculator.compute().items()}
    predicted, probabilities = scores.argmax(-1).numpy(), scores.double().numpy()
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "f1": sk.f1_score(truth, predicted, average="macro"),
        "precision": sk.precision_score(truth, predicted, average="macro"),
        "recall": sk.recall_score(truth, predicted, average="macro"),
        "mcc": sk.matthews_corrcoef(truth, predicted),
        "auroc": sk.roc_auc_score(truth, probabilities / probabilities.sum(1, keepdims=True), multi_class="ovr"),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert found["ece"] == pytest.approx(_ece(probabilities, truth.numpy()), abs=1e-6)


def _ece(probabilities: np.ndarray, truth: np.ndarray, bins: int = 15) -> float:
    """Guo et al. (2017), equation 3, written down once more."""
    confidence, right = probabilities.max(1), probabilities.argmax(1) == truth
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    shares = [
        (bin_of == b).mean() * abs(right[bin_of == b].mean() - confidence[bin_of == b].mean()) for b in set(bin_of)
    ]
    return float(sum(shares))


def test_multilabel_metrics_are_those_of_scikit_learn() -> None:
    objective, outputs, truth = MultiLabel(threshold=0.4), _outputs(C), _label_target()
    scores = objective.scores(outputs)
    calculator = objective.metrics(C)
    calculator.update(scores, truth)
    predicted = objective.predict(scores)
    expected = {
        "accuracy": sk.accuracy_score(truth, predicted),
        "f1": sk.f1_score(truth, predicted, average="macro"),
        "precision": sk.precision_score(truth, predicted, average="macro"),
        "recall": sk.recall_score(truth, predicted, average="macro"),
        "auroc": sk.roc_auc_score(truth, scores, average="macro"),
    }
    assert {name: float(value) for name, value in calculator.compute().items()} == pytest.approx(expected, abs=1e-6)


def test_a_class_that_does_not_occur_does_not_lower_auroc() -> None:
    target = torch.arange(20) % 2  # the third class does not occur
    perfect = torch.eye(3)[target]
    multiclass, multilabel = MultiClass().metrics(3), MultiLabel().metrics(3)
    multiclass.update(perfect, target)
    multilabel.update(perfect, torch.eye(3)[target])
    assert multiclass.compute()["auroc"] == multilabel.compute()["auroc"] == 1.0
    alone = MultiClass().metrics(3)
    alone.update(perfect[::2], target[::2])
    assert alone.compute()["auroc"].isnan(), "one class alone cannot be ranked"


def test_regression_metrics_are_those_of_scipy() -> None:
    objective, outputs, truth = Regression(), _outputs(1), _number_target()
    calculator = objective.metrics(1)
    calculator.update(objective.scores(outputs), truth)
    values = outputs.squeeze(-1)
    expected = {
        "mse": sk.mean_squared_error(truth, values),
        "mae": sk.mean_absolute_error(truth, values),
        "pearson": stats.pearsonr(truth, values).statistic,
        "spearman": stats.spearmanr(truth, values).statistic,
    }
    assert {name: float(value) for name, value in calculator.compute().items()} == pytest.approx(expected, abs=1e-5)


def test_label_smoothing_is_that_of_the_paper() -> None:
    outputs, truth = _outputs(C), _class_target()
    share = 0.3
    soft = (1 - share) * F.one_hot(truth, C) + share / C
    expected = -(soft * outputs.log_softmax(-1)).sum(-1)
    torch.testing.assert_close(MultiClass(label_smoothing=share).losses(outputs, truth), expected)


def test_smaller_is_better_for_errors_and_larger_for_the_rest() -> None:
    assert [mode(name) for name in ("loss", "mse", "ece", "accuracy", "pearson")] == ["min"] * 3 + ["max"] * 2


def test_the_interval_of_accuracy_is_that_of_the_binomial() -> None:
    right = torch.arange(400) % 5 != 0  # 80% of 400
    scores = torch.stack([(~right).float(), right.float()], dim=1)
    target = torch.ones(400, dtype=torch.long)
    low, high = intervals(MultiClass().metrics(2), scores, target, torch.rand(400))["accuracy"]
    expected = stats.binom.ppf([0.025, 0.975], 400, 0.8) / 400
    assert (low, high) == pytest.approx(tuple(expected), abs=0.008)


def test_intervals_repeat_with_the_seed() -> None:
    scores, target = MultiClass().scores(_outputs(C)), _class_target()
    losses = torch.rand(N)
    one, two, other = (intervals(MultiClass().metrics(C), scores, target, losses, seed=s) for s in (0, 0, 1))
    assert one == two
    assert one != other
