"""Whether a value may stand for a parameter: by its annotation, and by what the field allows."""

import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Union

LOWER_IS_BETTER = frozenset({"loss", "mse", "mae", "ece"})  # of metrics
Rule = tuple[Callable[[float], bool], str]
AT_LEAST_1: Rule = (lambda x: x >= 1, "at least 1")
NOT_NEGATIVE: Rule = (lambda x: x >= 0, "0 or more")
SHARE_BELOW_1: Rule = (lambda x: 0 <= x < 1, "at least 0 and below 1")
BETWEEN_0_AND_1: Rule = (lambda x: 0 < x < 1, "above 0 and below 1")
ENDLESS: Rule = (lambda x: x >= 1 or x == -1, "at least 1, or -1 for no limit")
SEED_LIMIT = 1 << 32
POSITIVE_UP_TO_1: Rule = (lambda x: 0 < x <= 1, "above 0 and at most 1")
LR: Rule = (lambda x: 0 < x < 100, "above 0 (for fine-tuning usually 1e-5 to 1e-3)")
PLAIN = (int, float, str, bool, type(None), None, Path, Literal)
RANGES: dict[str, Rule] = {
    "lr": LR,
    "probe_lr": LR,
    "lr_grid": LR,
    "weight_decay": NOT_NEGATIVE,
    "weight_decay_grid": NOT_NEGATIVE,
    "momentum": SHARE_BELOW_1,
    "betas": SHARE_BELOW_1,
    "eps": (lambda x: 0 < x < 1, "above 0 and below 1, such as 1e-8"),
    "batch_size": AT_LEAST_1,
    "eval_batch_size": AT_LEAST_1,
    "shapes": AT_LEAST_1,
    "max_tokens": AT_LEAST_1,
    "max_length": (lambda x: x >= 4, "at least 4 tokens"),
    "seed": NOT_NEGATIVE,
    "split_seed": NOT_NEGATIVE,
    "max_epochs": ENDLESS,
    "max_steps": ENDLESS,
    "min_epochs": NOT_NEGATIVE,
    "min_steps": NOT_NEGATIVE,
    "devices": (lambda x: x >= 1 or x == -1, "at least 1, or -1 for all"),
    "num_nodes": AT_LEAST_1,
    "check_val_every_n_epoch": AT_LEAST_1,
    "val_check_interval": (lambda x: x > 0, "above 0"),
    "log_every_n_steps": AT_LEAST_1,
    "limit_train_batches": (lambda x: x > 0, "above 0"),
    "limit_val_batches": NOT_NEGATIVE,
    "limit_test_batches": NOT_NEGATIVE,
    "num_sanity_val_steps": (lambda x: x >= -1, "0 or more, or -1 for all"),
    "accumulate_grad_batches": AT_LEAST_1,
    "gradient_clip_val": NOT_NEGATIVE,
    "num_workers": NOT_NEGATIVE,
    "patience": AT_LEAST_1,
    "shots": AT_LEAST_1,
    "hidden": AT_LEAST_1,
    "dropout": SHARE_BELOW_1,
    "label_smoothing": SHARE_BELOW_1,
    "warmup": SHARE_BELOW_1,
    "threshold": BETWEEN_0_AND_1,
    "val_fraction": BETWEEN_0_AND_1,
    "test_fraction": BETWEEN_0_AND_1,
    "train_fraction": POSITIVE_UP_TO_1,
    "layer_decay": POSITIVE_UP_TO_1,
    "frozen": NOT_NEGATIVE,
    "top": AT_LEAST_1,
    "head_epochs": AT_LEAST_1,
    "probe_epochs": AT_LEAST_1,
    "epochs_per_group": (lambda x: x > 0, "above 0 (0.25 opens four groups at once)"),
    "cut_frac": BETWEEN_0_AND_1,
    "ratio": AT_LEAST_1,
    "drop_path": SHARE_BELOW_1,
    "image_size": AT_LEAST_1,
    "width": AT_LEAST_1,
    "depth": AT_LEAST_1,
    "mixup": NOT_NEGATIVE,
    "cutmix": NOT_NEGATIVE,
    "mix_off_epochs": NOT_NEGATIVE,
    "random_erasing": (lambda x: 0 <= x <= 1, "a probability, 0 to 1,"),
    "alpha": NOT_NEGATIVE,
    "beta": NOT_NEGATIVE,
    "rho": (lambda x: x > 0, "above 0 (usually 0.01 to 0.2)"),
    "p": SHARE_BELOW_1,
    "decay": SHARE_BELOW_1,
    "start": SHARE_BELOW_1,
    "norm_batches": AT_LEAST_1,
    "k": (lambda x: x >= 2, "at least 2"),
    "r": AT_LEAST_1,
    "tokens": AT_LEAST_1,
    "target_r": AT_LEAST_1,
    "init_r": AT_LEAST_1,
    "initial": SHARE_BELOW_1,
    "final": SHARE_BELOW_1,
    "every": AT_LEAST_1,
    "orthogonal": NOT_NEGATIVE,
    "block_size": (lambda x: x >= 2, "at least 2 features"),
    "projection_seed": NOT_NEGATIVE,
    "niter": AT_LEAST_1,
}


def matches(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand for a parameter annotated with ``hint``."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in (Any, object) or isinstance(hint, typing.TypeVar):
        return True
    if isinstance(value, Mapping) and "_target_" in value:
        return takes_part(hint)
    if origin in (Union, types.UnionType):
        return any(matches(value, option) for option in inner)
    if origin is Literal:
        return any(value == option and type(value) is type(option) for option in inner)
    if hint is None or hint is type(None):
        return value is None
    if isinstance(value, list):
        return _takes_list(value, hint, origin, inner)
    kind = origin or hint
    if isinstance(value, Mapping):
        return isinstance(kind, type) and issubclass(dict, kind)
    return _scalar_matches(value, kind)


def takes_part(hint: Any) -> bool:
    """Whether a node with a ``_target_`` may stand for a parameter annotated with ``hint``: no plain value is meant."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return any(map(takes_part, inner))
    kind = origin or hint
    return kind not in PLAIN and not (isinstance(kind, type) and issubclass(kind, (list, tuple, dict)))


def of_other_kind(part: Any, partial: bool, hint: Any) -> bool:
    """Whether what a node makes (an instance of ``part``, or a partial) is surely none of what ``hint`` names."""
    kinds = [typing.get_origin(option) or option for option in _options(hint) if takes_part(option)]
    if not all(isinstance(kind, type) and not getattr(kind, "_is_protocol", False) for kind in kinds):
        return False
    if partial:
        return Callable not in kinds
    # What a function gives back is not known before.
    return isinstance(part, type) and not any(issubclass(part, kind) for kind in kinds)


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _takes_list(value: list[Any], hint: Any, origin: Any, inner: tuple[Any, ...]) -> bool:
    kind = origin or hint
    if not isinstance(kind, type) or kind is str or not (issubclass(list, kind) or issubclass(tuple, kind)):
        return False
    if kind is tuple and inner and ... not in inner:
        return len(value) == len(inner) and all(map(matches, value, inner))
    element = [i for i in inner if i is not ...]
    return not element or all(any(matches(v, e) for e in element) for v in value)


def _scalar_matches(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in (bool, str):
        return isinstance(value, kind)
    return kind is Path and isinstance(value, str)


def described(hint: Any) -> str:
    """An annotation in words."""
    if isinstance(hint, type):
        return {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}.get(
            hint.__name__, hint.__name__
        )
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        return " or ".join(map(str, inner))
    if typing.get_origin(hint) in (Union, types.UnionType):
        return " or ".join("null" if option is type(None) else described(option) for option in inner)
    if typing.get_origin(hint) is list:
        return f"a list ([a,b]) of {described(inner[0])}"
    return str(hint).removeprefix("typing.")


def nearest(name: str, legal: Iterable[str]) -> str:
    """A hint at the nearest legal name, or at all of them."""
    legal = [n for n in legal if not n.startswith("_")]
    close = get_close_matches(name, legal, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; it takes: {', '.join(legal)}" if len(legal) <= 30 else ""
