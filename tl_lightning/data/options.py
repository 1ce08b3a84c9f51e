"""The checks of a data module's options that need no data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tl_lightning.data.base import Indices
from tl_lightning.data.clean import check_steps
from tl_lightning.data.faults import Faults
from tl_lightning.errors import UserError

if TYPE_CHECKING:
    from tl_lightning.data.module import SplitData
    from tl_lightning.data.text import TextData


def check_options(data: "SplitData", faults: Faults) -> None:
    """Collects the options of any data module that cannot be meant."""
    for name in ("batch_size", "eval_batch_size", "shots"):
        faults.of(at_least, name, getattr(data, name), 1)
    faults.of(at_least, "num_workers", data.num_workers, 0)
    _check_fractions(data, faults)
    faults.of(_check_shots, data)
    if not data.label_separator:
        faults.add("data.label_separator= is empty: type for example data.label_separator=;")


def check_text_options(data: "TextData", faults: Faults) -> None:
    """Collects the options of text data that cannot be meant."""
    faults.of(check_steps, data.clean or [])
    for name in ("shapes", "max_tokens"):
        faults.of(at_least, name, getattr(data, name), 1)
    _check_columns(data, faults)
    if not data.by_length and (data.shapes or data.max_tokens):
        faults.add(
            "data.by_length=false mixes all lengths in a batch, and data.shapes and data.max_tokens sort them: "
            "leave both out, or type data.by_length=true."
        )
    if data.on_empty not in ("error", "drop"):
        faults.add(f"data.on_empty={data.on_empty}: type data.on_empty=error or data.on_empty=drop.")


def _check_columns(data: "TextData", faults: Faults) -> None:
    if data.text_pair == data.text:
        faults.add(f"data.text and data.text_pair are both {data.text!r}: name two columns, or data.text_pair=null.")
    if data.label in (data.text, data.text_pair):
        faults.add(f"data.label={data.label} is a column of texts too: name another, data.label=COLUMN.")


def check_budget(max_tokens: int | None, lengths: Mapping[str, Indices]) -> None:
    """Raises UserError where the longest text of a split alone exceeds a batch's tokens."""
    for split, found in lengths.items():
        longest = int(found.max(initial=0))
        if max_tokens is not None and longest > max_tokens:
            raise UserError(
                f"data.max_tokens={max_tokens}: the longest text of {split} has {longest} tokens; type "
                f"data.max_tokens={longest} or more, or data.max_length={max_tokens}."
            )


def at_least(name: str, value: int | None, least: int) -> None:
    """Raises UserError for a value below `least`; None is any."""
    if value is not None and value < least:
        raise UserError(f"data.{name}={value}: it must be at least {least}, for example data.{name}={max(least, 16)}.")


def _check_fractions(data: "SplitData", faults: Faults) -> None:
    odd = [name for name in ("val_fraction", "test_fraction") if not 0 < getattr(data, name) < 1]
    for name in odd:
        faults.add(f"data.{name}={getattr(data, name)}: it must lie between 0 and 1, for example data.{name}=0.1.")
    if not odd and data.val_fraction + data.test_fraction >= 1:
        faults.add(
            f"data.val_fraction={data.val_fraction} and data.test_fraction={data.test_fraction} leave "
            f"nothing to train on: together they must stay below 1."
        )


def _check_shots(data: "SplitData") -> None:
    if data.train_fraction is not None and not 0 < data.train_fraction <= 1:
        raise UserError(
            f"data.train_fraction={data.train_fraction}: it must be above 0 and at most 1, "
            f"for example data.train_fraction=0.1."
        )
    if data.shots is None:
        return
    if data.train_fraction is not None:
        raise UserError(
            f"data.shots={data.shots} and data.train_fraction={data.train_fraction} both say how much "
            f"to train on: give one of them."
        )
    if data.target != "class":
        raise UserError(
            f"data.shots={data.shots} counts rows per class, and here a row has no single class. "
            f"Type data.train_fraction=... instead."
        )
