"""What a search may choose: Hydra's sweep syntax as distributions of Optuna's."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tl_lightning.errors import UserError

MOST_COMBINATIONS = 10_000


def split(overrides: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """The space, by key as Hydra takes it, and the words that stay; of two words for one key the later one counts.

    Raises:
        UserError: a word is no interval, range or choice that can be searched.
    """
    last = {str(override.key_or_group): override for override in overrides}
    space = {o.get_key_element(): _distribution(o) for o in last.values() if o.is_sweep_override()}
    stay = [str(o.input_line) for o in last.values() if not o.is_sweep_override()]
    return space, stay


def _distribution(override: Override) -> BaseDistribution:
    value, word = override.value(), str(override.input_line).lstrip("+")
    try:
        if isinstance(value, IntervalSweep):
            return _interval(value)
        if isinstance(value, RangeSweep):
            return _range(value)
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    except (ValueError, TypeError, AssertionError) as fault:
        raise UserError(f"{word} cannot be searched ({fault}): interval(low, high) has low below high") from fault


def _interval(value: IntervalSweep) -> BaseDistribution:
    assert value.start is not None
    assert value.end is not None
    log = "log" in value.tags
    if isinstance(value.start, int) and isinstance(value.end, int):
        return IntDistribution(value.start, value.end, log=log)
    return FloatDistribution(float(value.start), float(value.end), log=log)


def _range(value: RangeSweep) -> BaseDistribution:
    values = list(value.range())
    if not values:
        raise ValueError("it is empty")
    if all(isinstance(number, int) for number in values):
        return IntDistribution(int(values[0]), int(values[-1]), step=int(abs(value.step)))
    return FloatDistribution(float(values[0]), float(values[-1]), step=float(abs(value.step)))


def words(params: Mapping[str, Any]) -> list[str]:
    """A choice of the space as overrides."""
    return [f"{key}={value}" for key, value in params.items()]


def combinations(space: Mapping[str, BaseDistribution]) -> list[dict[str, Any]]:
    """Every combination.

    Raises:
        UserError: a key has no end of values, or there are too many combinations.
    """
    values = {key: _values(key, distribution) for key, distribution in space.items()}
    found = list(itertools.islice(itertools.product(*values.values()), MOST_COMBINATIONS + 1))
    if len(found) > MOST_COMBINATIONS:
        raise UserError(f"The grid has more than {MOST_COMBINATIONS} combinations: hydra.sweeper.sampler=random or tpe")
    return [dict(zip(values, combination, strict=True)) for combination in found]


def _values(key: str, distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    assert isinstance(distribution, FloatDistribution)
    if distribution.step is None:
        raise UserError(f"{key.lstrip('+')}: a grid needs choice(...) or range(...), not interval(...)")
    count = round((distribution.high - distribution.low) / distribution.step) + 1
    return [distribution.low + i * distribution.step for i in range(count)]


def probes(space: Mapping[str, BaseDistribution]) -> Iterator[dict[str, Any]]:
    """Few points that show whether every part of the space is legal: each choice and both ends once."""
    ends = {key: _ends(distribution) for key, distribution in space.items()}
    first = {key: values[0] for key, values in ends.items()}
    yield first
    for key, values in ends.items():
        yield from ({**first, key: value} for value in values[1:])


def _ends(distribution: BaseDistribution) -> list[Any]:
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, (FloatDistribution, IntDistribution))
    return [distribution.low, distribution.high]
