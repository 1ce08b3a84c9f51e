"""The checks of a data module's options that need no data."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from tl_lightning.data.base import Indices
from tl_lightning.data.clean import check_steps
from tl_lightning.errors import UserError

if TYPE_CHECKING:
    from tl_lightning.data.module import SplitData
    from tl_lightning.data.text import TextData


def check_options(data: "SplitData") -> None:
    """Raises UserError for the first option of any data module that cannot be meant."""
    for name in ("batch_size", "eval_batch_size", "shots"):
        at_least(name, getattr(data, name), 1)
    at_least("num_workers", data.num_workers, 0)
    _check_fractions(data)
    _check_shots(data)
    if not data.label_separator:
        raise UserError("data.label_separator= is empty: type for example data.label_separator=;")


def check_text_options(data: "TextData") -> None:
    """Raises UserError for the first option of text data that cannot be meant."""
    check_steps(data.clean or [])
    for name in ("shapes", "max_tokens"):
        at_least(name, getattr(data, name), 1)
    _check_columns(data)
    if not data.by_length and (data.shapes or data.max_tokens):
        raise UserError(
            "data.by_length=false mixes all lengths in a batch, and data.shapes and data.max_tokens sort them: "
            "leave both out, or type data.by_length=true."
        )
    if data.on_empty not in ("error", "drop"):
        raise UserError(f"data.on_empty={data.on_empty}: type data.on_empty=error or data.on_empty=drop.")


def _check_columns(data: "TextData") -> None:
    if data.text_pair == data.text:
        raise UserError(
            f"data.text and data.text_pair are both {data.text!r}: name two columns, or data.text_pair=null."
        )
    if data.label in (data.text, data.text_pair):
        raise UserError(f"data.label={data.label} is a column of texts too: name another, data.label=COLUMN.")


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


def _check_fractions(data: "SplitData") -> None:
    for name in ("val_fraction", "test_fraction"):
        value = getattr(data, name)
        if not 0 < value < 1:
            raise UserError(f"data.{name}={value}: it must lie between 0 and 1, for example data.{name}=0.1.")
    if data.val_fraction + data.test_fraction >= 1:
        raise UserError(
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
