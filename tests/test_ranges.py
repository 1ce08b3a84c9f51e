"""Ranges: every bound of our parts and of other packages' classes holds, and a user's own words are free."""

import inspect
import itertools
import pkgutil
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import pytest

import tl_lightning
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.parts import MARKED
from tl_lightning.ranges import AT_LEAST_1, Range, crossed, hints
from tl_lightning.targets import ALLOW_VARIABLE, SUPPLIED
from tl_lightning.values import fitted, outside

Compose = Callable[..., dict[str, Any]]


class Bad(NamedTuple):
    """What must be refused and what must not, as the name's first meaning in this package had it."""

    values: tuple[float, ...]
    good: float


BELOW_1 = Bad((-0.1, 1, 2), 0.5)
SHARE = Bad((0, 1, -1), 0.5)
UP_TO_1 = Bad((0, 1.5, -1), 1)
COUNT = Bad((0, -1), 1)
FREE = Bad((-1,), 0)
RATE = Bad((0, -1, 100, 1e30), 1e-3)
LIMITS = {
    **dict.fromkeys(("lr", "probe_lr", "lr_grid"), RATE),
    **dict.fromkeys(("weight_decay", "weight_decay_grid", "mixup", "cutmix", "beta", "orthogonal", "alpha"), FREE),
    **dict.fromkeys(("momentum", "betas", "dropout", "label_smoothing", "warmup", "drop_path", "p", "decay"), BELOW_1),
    **dict.fromkeys(("start", "initial", "final"), BELOW_1),
    **dict.fromkeys(("eps", "threshold", "val_fraction", "test_fraction", "cut_frac"), SHARE),
    **dict.fromkeys(("train_fraction", "layer_decay"), UP_TO_1),
    **dict.fromkeys(("batch_size", "eval_batch_size", "shapes", "max_tokens", "patience", "shots", "hidden"), COUNT),
    **dict.fromkeys(("top", "head_epochs", "probe_epochs", "image_size", "width", "depth", "norm_batches"), COUNT),
    **dict.fromkeys(("r", "tokens", "target_r", "init_r", "every", "niter", "num_nodes"), COUNT),
    **dict.fromkeys(("check_val_every_n_epoch", "log_every_n_steps", "accumulate_grad_batches"), COUNT),
    **dict.fromkeys(("seed", "split_seed", "min_epochs", "min_steps", "limit_val_batches", "limit_test_batches"), FREE),
    **dict.fromkeys(("gradient_clip_val", "num_workers", "frozen", "mix_off_epochs", "projection_seed"), FREE),
    **dict.fromkeys(("max_epochs", "max_steps", "devices"), Bad((0, -2), -1)),
    **dict.fromkeys(("val_check_interval", "limit_train_batches", "epochs_per_group", "rho"), Bad((0, -1), 1)),
    "num_sanity_val_steps": Bad((-2,), -1),
    "max_length": Bad((3, 0), 4),
    "ratio": Bad((0.5,), 1),
    "random_erasing": Bad((-0.1, 1.1), 1),
    "k": Bad((1,), 2),
    "block_size": Bad((1,), 2),
}
OPTIMIZERS = ("SGD", "AdamW", "Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "Adadelta", "RMSprop", "ASGD", "Rprop")


def _ours() -> Iterator[tuple[str, str, Any]]:
    """(group, target, part) of all of this package's parts."""
    for module in pkgutil.walk_packages(tl_lightning.__path__, "tl_lightning."):
        if not module.name.endswith("__main__"):
            import_module(module.name)
    for target, (part, (group,)) in MARKED.items():
        yield group, target, part


def _places() -> list[tuple[str, str, str]]:
    """(group, target, parameter) for each parameter of ours whose name had a limit, and those of other packages."""
    found = [
        (group, target, name)
        for group, target, part in _ours()
        for name in inspect.signature(part).parameters
        if name in LIMITS and name not in SUPPLIED.get(group, ())
    ]
    import torch
    from lightning.pytorch import Trainer

    trainer = [("trainer", "lightning.Trainer", name) for name in inspect.signature(Trainer).parameters]
    optimizers = [
        ("optimizer", f"torch.optim.{kind}", name)
        for kind in OPTIMIZERS
        for name in inspect.signature(getattr(torch.optim, kind)).parameters
    ]
    others = [("callbacks", "lightning.pytorch.callbacks.EarlyStopping", "patience")]
    return [*found, *(place for place in (*trainer, *optimizers, *others) if place[2] in LIMITS)]


@pytest.fixture(scope="module")
def whole(compose: Compose) -> dict[str, Any]:
    return compose("+experiment=bert_sst2")


def _told(whole: dict[str, Any], group: str, target: str, name: str, value: Any) -> str:
    """What the check says of one word of a part, if anything."""
    node = {"_target_": target, "_partial_": group in SUPPLIED, name: value}
    if group == "regularizer":
        group, node = "strategy", {**whole["strategy"], "regularizer": node}
    config = {**whole, group: {"it": node} if group == "callbacks" else node}
    try:
        check(config)
    except UserError as fault:
        return "\n".join(line for line in str(fault).splitlines() if re.search(rf"\.{name}(\[\d\])?=", line))
    return ""


@pytest.mark.parametrize(("group", "target", "name"), _places())
def test_a_bound_holds_wherever_a_part_takes_the_word(
    group: str, target: str, name: str, whole: dict[str, Any]
) -> None:
    listed = name.endswith("_grid") or name == "betas"
    for value in LIMITS[name].values:
        asked = [0.5, value] if listed else value
        assert _told(whole, group, target, name, asked), f"{name}={asked}"
    good = [LIMITS[name].good, LIMITS[name].good + 0.01] if listed else LIMITS[name].good
    assert not _told(whole, group, target, name, good)


def test_every_limit_stands_for_some_part() -> None:
    places = _places()
    assert {name for _, _, name in places} >= set(LIMITS) - {"seed"}  # of the root: see test_check
    assert len(places) > 200


FREE_NUMBERS = {"min_delta", "divergence_threshold", "stopping_threshold", "d_initial", "unfreeze_at"}


def test_a_number_of_ours_has_a_range_or_is_meant_to_be_free() -> None:
    bare = {
        (target, name)
        for group, target, part in _ours()
        for name, hint in hints(part).items()
        if re.search(r"\b(int|float)\b", str(hint)) and "Range(" not in str(hint) and "Callable" not in str(hint)
        if name in inspect.signature(part).parameters and name not in SUPPLIED.get(group, ())
    }
    assert {pair for pair in bare if pair[1] not in FREE_NUMBERS} == set()


OWN = "tests.own_parts.Own"


@pytest.mark.parametrize(
    "word", ["start=2", "decay=5", "alpha=-1", "p=[3,-4]", "k=0", "seed=-5", "rounds=9", "every=2", "every=null"]
)
def test_a_users_own_part_takes_its_own_words(word: str, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "tests.own_parts")
    name, _, value = word.partition("=")
    full = check(compose("+experiment=bert_sst2", f"strategy._target_={OWN}", f"strategy.{word}"))
    assert str(full["strategy"][name]).replace(".0", "").replace(" ", "").replace("None", "null") == value


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("rounds=10", "strategy.rounds=10: at most 9 is expected (and at least 1)"),
        ("rounds=0", "strategy.rounds=0: at least 1 is expected (and at most 9)"),
        ("every=1.5", "strategy.every=1.5: at least 2 is expected"),
    ],
)
def test_a_users_own_ranges_hold(word: str, told: str, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "tests.own_parts")
    with pytest.raises(UserError) as caught:
        check(compose("+experiment=bert_sst2", f"strategy._target_={OWN}", f"strategy.{word}"))
    assert told in str(caught.value)


@pytest.mark.parametrize("bounds", list(itertools.product(("gt", "ge", None), ("lt", "le", None))))
def test_the_bound_that_was_crossed_is_told_first(bounds: tuple[str | None, str | None]) -> None:
    lower, upper = bounds
    one = Range(**{name: at for name, at in zip(bounds, (2.0, 5.0), strict=True) if name})  # type: ignore[arg-type]
    told_low, told_high = crossed(1, [one]), crossed(9, [one])
    assert (told_low is None) == (lower is None)
    assert (told_high is None) == (upper is None)
    words = {"gt": "above 2.0", "ge": "at least 2.0", "lt": "below 5.0", "le": "at most 5.0"}
    assert told_low is None or told_low.startswith(f"{words[str(lower)]} is expected")
    assert told_high is None or told_high.startswith(f"{words[str(upper)]} is expected")
    if lower and upper:
        assert words[upper] in str(told_low)
        assert words[lower] in str(told_high)
    assert crossed(3, [one]) is None


BATCHES = Annotated[int, AT_LEAST_1] | Annotated[float, Range(gt=0, le=1)] | None


@pytest.mark.parametrize(
    ("value", "hint", "fit"),
    [
        (1, float, 1.0),
        (1, int, 1),
        (1, float | None, 1.0),
        (1, Annotated[float, Range(ge=0)] | None, 1.0),
        (1, int | float, 1),  # one batch and all of them are two things
        (1.0, int | float, 1.0),
        (1, BATCHES, 1),
        ([0, 1], list[float], [0.0, 1.0]),
        ([0, 1], tuple[float, float] | None, [0.0, 1.0]),
        ([1, 2], list[float] | int, [1.0, 2.0]),
        ([[1, 2], [5, "all"]], list[tuple[float, int | str]], [[1.0, 2], [5.0, "all"]]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1]}, dict[str, list[float]] | None, {"a": [1.0]}),
        (True, bool | float, True),
        (None, float | None, None),
        ([], list[float], []),
        (3, Any, 3),
    ],
)
def test_whole_numbers_become_what_is_meant(value: Any, hint: Any, fit: Any) -> None:
    found = fitted(value, hint)
    assert repr(found) == repr(fit)
    assert not list(outside("it", value, hint))


def test_the_completed_configuration_holds_floats_where_they_are_meant(compose: Compose) -> None:
    words = ("data=digits", "backbone=small_resnet", "data.cutmix=1", "data.crop_scale=[0.8,1]", "optimizer.lr=1")
    full = check(compose(*words, "optimizer.weight_decay=0", "trainer.limit_val_batches=1", "head.lr_grid=null"))
    found = (full["data"]["cutmix"], full["data"]["crop_scale"], full["optimizer"]["lr"], full["trainer"])
    assert repr(found[:3]) == "(1.0, [0.8, 1.0], 1.0)"
    assert repr(full["optimizer"]["weight_decay"]) == "0.0"
    assert repr(found[3]["limit_val_batches"]) == "1"
