"""Objectives: what is learned.  Each knows its loss, its metrics and how outputs become predictions."""

import warnings
from collections.abc import Callable
from typing import ClassVar, Literal, Protocol

import torchmetrics.classification as tmc
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torchmetrics import (
    MeanAbsoluteError,
    MeanSquaredError,
    Metric,
    MetricCollection,
    PearsonCorrCoef,
    SpearmanCorrCoef,
)
from torchmetrics.utilities import dim_zero_cat

from tl_lightning.errors import UserError
from tl_lightning.parts import part
from tl_lightning.ranges import Between0And1, ShareBelow1
from tl_lightning.values import LOWER_IS_BETTER

Target = Literal["class", "labels", "number"]
ClassMetric = Literal["accuracy", "f1", "precision", "recall", "mcc", "auroc", "ece", "loss"]
LabelMetric = Literal["accuracy", "f1", "precision", "recall", "auroc", "loss"]
NumberMetric = Literal["mse", "mae", "pearson", "spearman", "loss"]


class ClassAUROC(tmc.MulticlassAUROC):
    """One-against-rest AUROC, averaged over the classes that occur; torchmetrics counts an absent one as 0."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, average="none", validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]  # torchmetrics' own AUROC says so of itself too
        """() in 0 to 1, or NaN where no class can be ranked."""
        return _mean_over_present(super().compute, F.one_hot(dim_zero_cat(self.target), self.num_classes))


class LabelAUROC(tmc.MultilabelAUROC):
    """AUROC per label, averaged over the labels that occur and do not always occur."""

    def __init__(self, num_labels: int) -> None:
        super().__init__(num_labels, average="none", validate_args=False)

    def compute(self) -> Tensor:  # type: ignore[override]
        """() in 0 to 1, or NaN where no label can be ranked."""
        return _mean_over_present(super().compute, dim_zero_cat(self.target))


def _mean_over_present(compute: Callable[[], Tensor], target: Tensor) -> Tensor:
    """``target`` (N, C) says which columns have both positives and negatives."""
    with warnings.catch_warnings():  # about the absent ones, which are left out here
        warnings.simplefilter("ignore")
        values = compute()
    positives = target.sum(dim=0)
    return values[(positives > 0) & (positives < len(target))].mean()


class Objective(Protocol):
    """What a task learns.

    ``target`` says what the data must deliver: ``class`` (int64, (B,)), ``labels`` (multi-hot float32, (B, C))
    or ``number`` (float32, (B,)).  ``monitor`` names the metric that selects the best checkpoint on ``val``.
    """

    target: ClassVar[Target]
    monitor: str

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The loss of each sample: (B, C) and the target's shape -> (B,)."""

    def scores(self, outputs: Tensor) -> Tensor:
        """Outputs (B, C) as probabilities (B, C), or as values (B,)."""

    def predict(self, scores: Tensor) -> Tensor:
        """Scores as the target's kind: class numbers (B,), multi-hot (B, C) or values (B,)."""

    def metrics(self, num_outputs: int) -> MetricCollection:
        """The metrics of scores against targets, without a stage prefix and without the loss."""


def mode(metric: str) -> Literal["min", "max"]:
    """Whether a smaller or a larger value of ``metric`` is better."""
    return "min" if metric in LOWER_IS_BETTER else "max"


def _collection(monitor: str, metrics: dict[str, Metric]) -> MetricCollection:
    names = ["loss", *metrics]
    if monitor not in names:
        raise UserError(
            f"objective.monitor={monitor} is no metric of this objective; choose one of: {', '.join(names)}"
        )
    return MetricCollection(dict(metrics))


@part("objective")
class MultiClass:
    """One class per sample: softmax cross-entropy.

    ``label_smoothing`` moves that share of the target's mass to all classes evenly (Szegedy et al., 2016,
    arXiv:1512.00567).  Precision, recall, F1 and AUROC are macro averages over the classes that
    occur; ECE has 15 equal-width bins (Guo et al., 2017, arXiv:1706.04599).
    """

    target: ClassVar[Target] = "class"

    def __init__(self, monitor: ClassMetric = "accuracy", label_smoothing: ShareBelow1 = 0.0) -> None:
        self.monitor: str = monitor
        self.label_smoothing = label_smoothing

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(B, C), (B,) -> (B,)."""
        return F.cross_entropy(outputs, target, reduction="none", label_smoothing=self.label_smoothing)

    def scores(self, outputs: Tensor) -> Tensor:
        """(B, C) -> probabilities (B, C)."""
        return outputs.softmax(dim=-1)

    def predict(self, scores: Tensor) -> Tensor:
        """(B, C) -> class numbers (B,)."""
        return scores.argmax(dim=-1)

    def metrics(self, num_outputs: int) -> MetricCollection:
        """Accuracy, macro precision, recall and F1, MCC, AUROC, ECE."""
        n = num_outputs
        return _collection(
            self.monitor,
            {
                "accuracy": tmc.MulticlassAccuracy(n, average="micro", validate_args=False),
                "f1": tmc.MulticlassF1Score(n, average="macro", validate_args=False),
                "precision": tmc.MulticlassPrecision(n, average="macro", validate_args=False),
                "recall": tmc.MulticlassRecall(n, average="macro", validate_args=False),
                "mcc": tmc.MulticlassMatthewsCorrCoef(n, validate_args=False),
                "auroc": ClassAUROC(n),
                "ece": tmc.MulticlassCalibrationError(n, n_bins=15, validate_args=False),
            },
        )


@part("objective")
class MultiLabel:
    """Any number of labels per sample: a sigmoid and binary cross-entropy per label, averaged over labels.

    A label is predicted where its probability reaches ``threshold``.  ``accuracy`` is the share of samples whose
    labels are all right (subset accuracy); the others are macro averages over labels.  A label that does not occur
    counts as 0 in precision, recall and F1, as in scikit-learn, and is left out of AUROC.
    """

    target: ClassVar[Target] = "labels"

    def __init__(self, monitor: LabelMetric = "f1", threshold: Between0And1 = 0.5) -> None:
        self.monitor: str = monitor
        self.threshold = threshold

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(B, C), (B, C) -> (B,)."""
        return F.binary_cross_entropy_with_logits(outputs, target, reduction="none").mean(dim=-1)

    def scores(self, outputs: Tensor) -> Tensor:
        """(B, C) -> probabilities (B, C)."""
        return outputs.sigmoid()

    def predict(self, scores: Tensor) -> Tensor:
        """(B, C) -> multi-hot (B, C)."""
        return (scores >= self.threshold).long()

    def metrics(self, num_outputs: int) -> MetricCollection:
        """Subset accuracy, macro precision, recall, F1 and AUROC."""
        n, at = num_outputs, self.threshold
        return _collection(
            self.monitor,
            {
                "accuracy": tmc.MultilabelExactMatch(n, threshold=at, validate_args=False),
                "f1": tmc.MultilabelF1Score(n, threshold=at, validate_args=False),
                "precision": tmc.MultilabelPrecision(n, threshold=at, validate_args=False),
                "recall": tmc.MultilabelRecall(n, threshold=at, validate_args=False),
                "auroc": LabelAUROC(n),
            },
        )


@part("objective")
class Regression:
    """One number per sample: squared error."""

    target: ClassVar[Target] = "number"

    def __init__(self, monitor: NumberMetric = "pearson") -> None:
        self.monitor: str = monitor

    def losses(self, outputs: Tensor, target: Tensor) -> Tensor:
        """(B, 1), (B,) -> (B,)."""
        return F.mse_loss(outputs.squeeze(-1), target, reduction="none")

    def scores(self, outputs: Tensor) -> Tensor:
        """(B, 1) -> values (B,)."""
        return outputs.squeeze(-1)

    def predict(self, scores: Tensor) -> Tensor:
        """(B,) -> (B,)."""
        return scores

    def metrics(self, num_outputs: int) -> MetricCollection:
        """MSE, MAE, Pearson and Spearman correlation."""
        with warnings.catch_warnings():  # Spearman warns that it keeps all values: two numbers a sample
            warnings.simplefilter("ignore")
            spearman = SpearmanCorrCoef(num_outputs)
        return _collection(
            self.monitor,
            {
                "mse": MeanSquaredError(num_outputs=num_outputs),
                "mae": MeanAbsoluteError(),
                "pearson": PearsonCorrCoef(num_outputs),
                "spearman": spearman,
            },
        )
