"""What every data module hands to the model: the batch, and the kinds of target."""

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

Target = Literal["class", "labels", "number"]
"""One class per row, any number of labels per row, or one real number per row."""

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """One batch of B samples.

    inputs: what the backbone's forward takes, by name; for text (B, T) int64.
    target: (B,) int64 for a class, (B, C) float32 multi-hot for labels, (B,) float32 for a number.
    index: (B,) int64, each sample's row in its source; -1 for a sample that is repeated only to give
        every rank as many batches as the others, and must not be counted.
    """

    inputs: dict[str, Tensor]
    target: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls on a batch
