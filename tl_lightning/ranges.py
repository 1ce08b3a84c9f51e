"""Which numbers a parameter takes: a word of its annotation, or for classes of other packages of a table."""

import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal


@dataclass(frozen=True)
class Range:
    """The bounds of a number, as ``Annotated[float, Range(gt=0, lt=1)]``.

    The names are those of the package annotated-types, whose ``Gt``, ``Ge``, ``Lt``, ``Le`` and ``Interval`` are
    understood in its place.

    Args:
        gt: above this.
        ge: at least this.
        lt: below this.
        le: at most this.
        also: a number beside them, and what it stands for.
        note: what else to tell who crosses a bound.
    """

    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    also: tuple[float, str] | None = None
    note: str = ""


BOUNDS: dict[str, tuple[Callable[[float, float], bool], str]] = {
    "gt": (lambda x, bound: x > bound, "above"),
    "ge": (lambda x, bound: x >= bound, "at least"),
    "lt": (lambda x, bound: x < bound, "below"),
    "le": (lambda x, bound: x <= bound, "at most"),
}
SEED_LIMIT = 1 << 32
AT_LEAST_1, NOT_NEGATIVE, SHARE_BELOW_1 = Range(ge=1), Range(ge=0), Range(ge=0, lt=1)
LR = Range(gt=0, lt=100, note="for fine-tuning usually 1e-5 to 1e-3")

Count = Annotated[int, AT_LEAST_1]
Natural = Annotated[int, NOT_NEGATIVE]
Seed = Annotated[int, Range(ge=0, lt=SEED_LIMIT)]
Rate = Annotated[float, LR]
Weight = Annotated[float, NOT_NEGATIVE]
Positive = Annotated[float, Range(gt=0)]
ShareBelow1 = Annotated[float, SHARE_BELOW_1]
Between0And1 = Annotated[float, Range(gt=0, lt=1)]
PositiveUpTo1 = Annotated[float, Range(gt=0, le=1)]
Probability = Annotated[float, Range(ge=0, le=1)]
TextLength = Annotated[int, Range(ge=4, note="tokens")]

_ENDLESS = Range(ge=1, also=(-1, "for no limit"))
_A_SHARE = "as a share; a whole number counts batches"
_SOME = Count | Annotated[float, Range(gt=0, le=1, note=_A_SHARE)]
_ANY = Natural | Annotated[float, Range(ge=0, le=1, note=_A_SHARE)]
_UNIT = Literal["weeks", "days", "hours", "minutes", "seconds"]
_EPS = Range(gt=0, lt=1, note="such as 1e-8")
FOREIGN: dict[str, dict[str, Any]] = {
    "lightning.pytorch.trainer.trainer.Trainer": {
        "devices": Annotated[int, Range(ge=1, also=(-1, "for all"))] | list[Natural] | str,
        "num_nodes": AT_LEAST_1,
        "fast_dev_run": Natural | bool,
        "max_epochs": _ENDLESS,
        "max_steps": _ENDLESS,
        "max_time": str | dict[_UNIT, Natural] | None,
        "min_epochs": NOT_NEGATIVE,
        "min_steps": NOT_NEGATIVE,
        "limit_train_batches": _SOME | None,
        "limit_val_batches": _ANY | None,
        "limit_test_batches": _ANY | None,
        "limit_predict_batches": _ANY | None,
        "overfit_batches": _ANY,
        "val_check_interval": _SOME | str | dict[_UNIT, Natural] | None,
        "check_val_every_n_epoch": AT_LEAST_1,
        "num_sanity_val_steps": Range(ge=0, also=(-1, "for all")),
        "log_every_n_steps": AT_LEAST_1,
        "accumulate_grad_batches": AT_LEAST_1,
        "gradient_clip_val": NOT_NEGATIVE,
        "gradient_clip_algorithm": Literal["norm", "value"] | None,
        "reload_dataloaders_every_n_epochs": NOT_NEGATIVE,
    },
    "torch.optim": {
        "lr": LR,
        "weight_decay": NOT_NEGATIVE,
        "momentum": SHARE_BELOW_1,
        "betas": SHARE_BELOW_1,
        "eps": _EPS,
        "alpha": NOT_NEGATIVE,
        "rho": Range(gt=0, le=1),
    },
    "torch.optim.lr_scheduler": {"eps": _EPS, "patience": AT_LEAST_1},
    "torch.nn.modules": {"dropout": SHARE_BELOW_1, "label_smoothing": SHARE_BELOW_1},
    "torch.nn.modules.dropout": {"p": SHARE_BELOW_1},
    "lightning.pytorch.callbacks": {"patience": AT_LEAST_1, "decay": SHARE_BELOW_1},
}
"""By the class, module or package of a parameter (of several names the longest counts): its range, or what stands for
its whole annotation."""


def hints(part: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of a class's constructor or of a function, with the ranges that other packages do not name.

    Empty where only a type checker can read them.
    """
    function = inspect.unwrap(part.__init__ if inspect.isclass(part) else part)
    try:
        found = typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):
        return {}
    # The function's own home: that of the class from which a user's own class inherits its constructor.
    known = _known(f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '')}.")
    return {name: _with(hint, known.get(name)) for name, hint in found.items()}


def _known(home: str) -> dict[str, Any]:
    places = sorted((place for place in FOREIGN if home.startswith(f"{place}.")), key=len)
    return {name: meant for place in places for name, meant in FOREIGN[place].items()}


def _with(hint: Any, meant: Any) -> Any:
    return Annotated[hint, meant] if isinstance(meant, Range) else hint if meant is None else meant


def crossed(value: Any, extras: Iterable[Any]) -> str | None:
    """What is expected in place of a number that is out of one of the ranges among ``extras``; None where it fits."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return next((_told(extra, name) for extra in extras for name in BOUNDS if _crosses(value, extra, name)), None)


def _crosses(value: float, extra: Any, name: str) -> bool:
    bound, also = getattr(extra, name, None), getattr(extra, "also", None)
    return bound is not None and not BOUNDS[name][0](value, bound) and not (also and value == also[0])


def _told(extra: Any, name: str) -> str:
    """The bound that was crossed first, and then what else there is to know."""
    said = [f"{BOUNDS[n][1]} {getattr(extra, n)}" for n in (name, *BOUNDS) if getattr(extra, n, None) is not None]
    first, *others = dict.fromkeys(said)
    also, note = getattr(extra, "also", None), getattr(extra, "note", "")
    beside = [*(f"and {other}" for other in others), *([f"or {also[0]} {also[1]}"] if also else [])]
    told = "; ".join(filter(None, [" ".join(beside), note]))
    return f"{first} is expected ({told})" if told else f"{first} is expected"
