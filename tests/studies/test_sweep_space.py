"""Hydra's sweep syntax as a space of Optuna's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tl_lightning.__main__ import overrides
from tl_lightning.check import check
from tl_lightning.config import config_folder, hydra_word
from tl_lightning.errors import UserError
from tl_lightning.studies.settings import Settings
from tl_lightning.studies.space import combinations, probes, split, words


def _parsed(*typed: str) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(typed))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("a=interval(0.5,2)", FloatDistribution(0.5, 2.0)),
        ("a=tag(log,interval(1e-5,1e-3))", FloatDistribution(1e-5, 1e-3, log=True)),
        ("a=int(interval(1,4))", IntDistribution(1, 4)),
        ("a=tag(log,int(interval(1,64)))", IntDistribution(1, 64, log=True)),
        ("a=range(1,10,2)", IntDistribution(1, 9, step=2)),
        ("a=range(0.5,2,0.5)", FloatDistribution(0.5, 1.5, step=0.5)),
        ("a=choice(x,'y z',3)", CategoricalDistribution(["x", "y\\ z", "3"])),
        ("a=full,lora", CategoricalDistribution(["full", "lora"])),
        ("a=null,1", CategoricalDistribution(["null", "1"])),
        ("a=true,false", CategoricalDistribution(["True", "False"])),
    ],
)
def test_a_word_is_a_distribution(word: str, expected: BaseDistribution) -> None:
    space, stay = split(_parsed(word, "b=1"))
    assert space == {"a": expected}
    assert stay == ["b=1"]


def test_the_later_word_counts() -> None:
    space, stay = split(_parsed("++a.b=interval(1,2)", "a.b=3", "c=1", "c=x,y"))
    assert stay == ["a.b=3"]
    assert space == {"c": CategoricalDistribution(["x", "y"])}


def test_what_a_grid_takes() -> None:
    space, _ = split(_parsed("a=range(1,6,2)", "b=x,y", "c=range(0.5,1.5,0.5)"))
    points = combinations(space)
    assert len(points) == 3 * 2 * 2
    assert points[0] == {"a": 1, "b": "x", "c": 0.5}
    assert words(points[-1]) == ["a=5", "b=y", "c=1.0"]
    assert all(space[key]._contains(space[key].to_internal_repr(v)) for point in points for key, v in point.items())
    with pytest.raises(UserError, match="a: a grid needs choice"):
        combinations(split(_parsed("a=interval(1,2)"))[0])
    with pytest.raises(UserError, match="more than 10000 combinations"):
        combinations(split(_parsed("a=range(0,200)", "b=range(0,200)"))[0])


def test_each_choice_and_both_ends_are_tried_once() -> None:
    space, _ = split(_parsed("a=x,y,z", "b=interval(1,2)"))
    assert list(probes(space)) == [
        {"a": "x", "b": 1.0},
        {"a": "y", "b": 1.0},
        {"a": "z", "b": 1.0},
        {"a": "x", "b": 2.0},
    ]


SEARCHES = sorted((config_folder() / "search").glob("*.yaml"))


def test_there_are_searches() -> None:
    assert {"lr_and_decay", "recipe", "typed"} <= {file.stem for file in SEARCHES}


@pytest.mark.parametrize("file", SEARCHES, ids=lambda file: file.stem)
def test_a_search_of_ours_is_legal_at_all_its_ends(file: Path, compose: Callable[..., dict[str, Any]]) -> None:
    assert f"+search={file.stem}" in file.read_text(), "it opens with its command"
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = hydra.compose("config", overrides([f"search={file.stem}"]), return_hydra_config=True)
    settings: dict[str, Any] = OmegaConf.to_container(composed.hydra.sweeper)  # type: ignore[assignment]
    Settings(**settings).check()
    typed = [hydra_word(f"{key}={value}") for key, value in settings["params"].items()]
    space, stay = split(_parsed(*typed))
    assert not stay
    for probe in probes(space):
        check(compose(f"search={file.stem}", *words(probe)))
