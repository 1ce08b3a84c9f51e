"""The predictions on the test split as a table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from tl_lightning.files import aside
from tl_lightning.objectives import Objective
from tl_lightning.task import Predictions

Columns = dict[str, list[Any]]


def columns(predictions: Predictions, objective: Objective, classes: Sequence[str]) -> Columns:
    """One entry per test sample: id, target, prediction, a probability per class (``p_CLASS``), loss.

    For several labels target and prediction are lists of names, for a number they are numbers and there are no
    probabilities.  ``id`` is the row in its source, counted from 0.
    """
    predicted = objective.predict(predictions.scores)
    probabilities = predictions.scores.T.tolist() if classes else []
    return {
        "id": predictions.rows.tolist(),
        "target": _named(predictions.target, classes),
        "prediction": _named(predicted, classes),
        **{f"p_{name}": column for name, column in zip(classes, probabilities, strict=True)},
        "loss": predictions.losses.tolist(),
    }


def _named(values: Tensor, classes: Sequence[str]) -> list[Any]:
    if not classes:
        return values.tolist()
    if values.ndim == 2:
        return [[classes[i] for i in row.nonzero().flatten().tolist()] for row in values]
    return [classes[i] for i in values.tolist()]


def write(path: Path, table: Columns) -> None:
    """Write the table as parquet, aside first."""
    with aside(path) as beside:
        pq.write_table(pa.table(table), beside)
