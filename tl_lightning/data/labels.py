"""Labels: from cells to strings, from strings to classes, learned from the training split alone."""

import math
import re
from collections.abc import Mapping, Sequence

import pyarrow as pa

from tl_lightning.data.base import Target
from tl_lightning.data.faults import NAMED, RowError, same
from tl_lightning.errors import UserError

Cell = str | list[str] | None
"""As a source has it."""
Label = str | list[str] | float
"""As it is learned."""
_FRACTION = re.compile(r"[+-]?\d*\.\d*[1-9]\d*(e[+-]?\d+)?", re.IGNORECASE)


def cells(column: pa.Array, names: Sequence[str] | None, where: str, row: int) -> list[Cell]:
    """The cells of a label column as strings or lists of strings, None where there is nothing.

    names: the classes that integers stand for. row: the number of the first row, for messages.
    """
    out: list[Cell] = []
    for number, value in enumerate(column.to_pylist(), start=row):
        if isinstance(value, list):
            found = [_cell(one, names, where, number) for one in value]
            out.append([one for one in found if one])
        else:
            out.append(_cell(value, names, where, number))
    return out


def _cell(value: object, names: Sequence[str] | None, where: str, row: int) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else repr(value)
    if isinstance(value, int):
        return str(value) if names is None else _named(value, names, where, row)
    if isinstance(value, str):
        return value.strip()
    raise UserError(f"{where}: row {row} holds {value!r}, which is no label. Name another column: data.label=...")


def _named(code: int, names: Sequence[str], where: str, row: int) -> str:
    if 0 <= code < len(names):
        return names[code]
    raise UserError(
        f"{where}: row {row} has the label {code}, which stands for no class: the labels of this split are "
        f"secret. Test on a split with public labels, for example data.test=validation."
    )


def split_labels(cell: Cell, separator: str) -> list[str]:
    """The labels of one row of a multi-label column, each once; an empty cell holds none."""
    if cell is None:
        return []
    parts = cell if isinstance(cell, list) else [part.strip() for part in cell.split(separator)]
    return list(dict.fromkeys(part for part in parts if part))


def label_of(cell: Cell, target: Target, separator: str) -> Label:
    """What a cell says of its row: a class, labels or a number, as the target asks. Raises RowError."""
    if target == "labels":
        return split_labels(cell, separator)
    given = "" if cell is None else cell
    return _number(given) if target == "number" else _class(given)


def _class(cell: str | list[str]) -> str:
    if isinstance(cell, list):
        raise RowError("a list", f"has the list of labels {cell}. For several labels a row: objective=multilabel.")
    if _FRACTION.fullmatch(cell):
        raise RowError(
            "a fraction", f"has the label {cell}, a number and no class. To learn numbers: objective=regression."
        )
    return cell


def _number(cell: str | list[str]) -> float:
    try:
        value = float(cell)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise RowError(
            "no number", f"has the label {cell!r}, which is not a number. For classes: objective=multiclass."
        ) from None
    # Beyond float32 is infinite too, once it is a target.
    if not math.isfinite(value) or abs(value) > 3.4e38:
        raise RowError("not finite", f"has the label {cell}, which is not finite. Mend or drop the row.")
    return value


def learn_classes(
    seen: Sequence[str],
    declared: Sequence[str] | None,
    target: Target,
    where: str,
    hint: str = "Is data.label= the right column?",
) -> tuple[str, ...]:
    """The classes in their order: as the source declares them, else by number, else by alphabet.

    seen: the labels of the training split. hint: what the user may have meant. Raises UserError for fewer than two
    classes (or no label at all).
    """
    if target == "number":
        return ()
    if len(seen) < (2 if target == "class" else 1):
        only = f"only the label {seen[0]!r}" if seen else "no label"
        raise UserError(f"{where} has {only}: there is nothing to learn. {hint}")
    if declared is not None:
        return tuple(declared)
    return tuple(sorted(seen, key=int)) if _all_integers(seen) else tuple(sorted(seen))


def _all_integers(labels: Sequence[str]) -> bool:
    # "01" and "1" are two labels, so only the plain spelling is put in order by value.
    return all(re.fullmatch(r"-?(0|[1-9][0-9]*)", label) for label in labels)


def check_known(first: Mapping[str, str], classes: Sequence[str], split: str, where: str) -> None:
    """Raises UserError for labels that the training split does not have.

    first: each label of the split with the row that has it first, in words.
    """
    known = set(classes)
    odd = [label for label in first if label not in known]
    if odd:
        others = [f"{label!r} ({first[label]})" for label in odd[1 : NAMED + 1]]
        raise UserError(
            f"{where}: the label {odd[0]!r} of data.{split} (first in {first[odd[0]]}) does not occur in "
            f"data.train, whose labels are {', '.join(classes[:20])}. Mend it or take such rows out."
            f"{same(others, len(odd) - 1)}"
        )
