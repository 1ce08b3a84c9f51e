"""What a configuration may name is a closed list: all that is on it is a part, and nothing else passes."""

import pkgutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tl_lightning
from tl_lightning import targets
from tl_lightning.check import check
from tl_lightning.config import config_folder
from tl_lightning.errors import UserError
from tl_lightning.parts import FOREIGN, INSIDE, MARKED, own_name
from tl_lightning.studies.search import add_to_hydra
from tl_lightning.targets import ALLOW_VARIABLE, SUPPLIED, locate, named, within

Compose = Callable[..., dict[str, Any]]
GROUPS = (*SUPPLIED, "backbone", "objective", "strategy", "regularizer")
PACKAGES = (
    "tl_lightning",
    "torch",
    "torchmetrics",
    "torchvision",
    "lightning",
    "hydra",
    "hydra_plugins",
    "transformers",
)


@pytest.fixture(scope="module")
def listed() -> set[str]:
    """Every name that a configuration may say, of our own parts under all that they are known by."""
    modules = [m.name for m in pkgutil.walk_packages(tl_lightning.__path__, "tl_lightning.")]
    for name in modules:
        if not name.endswith("__main__"):
            import_module(name)
    ours = {
        f"{module}.{name}"
        for module in modules
        for name, found in vars(import_module(module)).items()
        if own_name(found) in MARKED and MARKED[own_name(found)].made is found and within(own_name(found), [module])
    }
    return {*ours, *INSIDE, *(name for names in FOREIGN.values() for name in names)}


def test_the_list_is_closed_and_short(listed: set[str]) -> None:
    add_to_hydra()  # makes its own plug-in known
    assert len(MARKED) == 54
    assert len(listed) == 208
    for name in sorted(listed):
        groups = [group for group in (*FOREIGN, *GROUPS, "") if _passes(name, group)]
        assert groups, name
    assert all(part.groups <= set(GROUPS) for part in MARKED.values())


def _passes(name: str, group: str) -> bool:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(targets, "get_close_matches", lambda *_, **__: [])  # a hint for each of thousands takes its time
        try:
            return callable(locate(name, group))
        except UserError:
            return False


def test_what_is_listed_of_other_packages_is_what_it_says(listed: set[str]) -> None:
    for name in (*INSIDE, *(n for group, names in FOREIGN.items() if not group.startswith("hydra") for n in names)):
        assert isinstance(locate(name), type), name
        assert locate(name).__name__ == name.rpartition(".")[2]


def test_every_target_of_conf_is_listed_for_its_group(listed: set[str]) -> None:
    found = [(file, target) for file in config_folder().rglob("*.yaml") for target in _targets(file)]
    assert len(found) > 80
    assert {target for _, target in found} <= listed


def _targets(file: Path) -> Iterator[str]:
    nodes = [yaml.safe_load(file.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, dict):
            yield from [node["_target_"]] if "_target_" in node else []
            nodes += node.values()
        elif isinstance(node, list):
            nodes += node


def _names() -> list[str]:
    """What can be reached below these packages as they are imported here: two steps from every module."""
    names = []
    for module, loaded in sorted(sys.modules.items()):
        if loaded is not None and within(module, PACKAGES):
            for name, found in list(vars(loaded).items()):
                names.append(f"{module}.{name}")
                names += [f"{module}.{name}.{inner}" for inner in vars(found)] if issubclass(type(found), type) else []
    return names


def test_nothing_else_below_these_packages_passes(listed: set[str]) -> None:
    names = _names()
    assert len(names) > 100_000

    @settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.sampled_from(names), st.sampled_from(["", *GROUPS, *FOREIGN]))
    def test(name: str, group: str) -> None:
        assert not _passes(name, group) or name in listed

    test()


def test_nothing_else_of_our_own_passes(listed: set[str]) -> None:
    ours = {name for name in _names() if name.startswith("tl_lightning.")}
    assert len(ours) > 5_000
    assert {name for name in ours if _passes(name, "")} == {name for name in listed if name in ours and _inside(name)}


def _inside(name: str) -> bool:
    return name not in {n for group, names in FOREIGN.items() if group.startswith("hydra") for n in names}


def test_a_part_is_known_by_what_it_is_not_by_where_it_was_found() -> None:
    from tl_lightning import soup
    from tl_lightning.callbacks import Best

    assert vars(soup)["Best"] is Best
    assert locate("tl_lightning.callbacks.Best", "callbacks") is Best
    with pytest.raises(UserError, match=r"outside what a configuration may call here .did you mean tl_lightning.call"):
        locate("tl_lightning.soup.Best", "callbacks")


def test_a_part_of_another_group_is_refused() -> None:
    with pytest.raises(UserError, match=r"tl_lightning\.heads\.Linear is outside what a configuration may call here"):
        locate("tl_lightning.heads.Linear", "strategy")
    assert not named("strategy")


METHODS: dict[str, dict[str, Any]] = {
    "lightning.pytorch.plugins.TorchCheckpointIO.remove_checkpoint": {"self": None, "path": "PROOF"},
    "lightning.pytorch.plugins.io.TorchCheckpointIO.load_checkpoint": {"self": None, "path": "PROOF"},
    "lightning.pytorch.plugins.CheckpointIO.remove_checkpoint": {"self": None, "path": "PROOF"},
    "lightning.pytorch.Trainer.save_checkpoint": {"self": None, "filepath": "PROOF"},
    "torch.optim.AdamW.load_state_dict": {"self": None, "state_dict": {}},
}


@pytest.mark.parametrize("target", METHODS)
def test_a_method_of_a_class_is_no_part(target: str, compose: Compose, tmp_path: Path) -> None:
    (tmp_path / "proof").mkdir()
    config = compose("experiment=bert_sst2")
    given = {key: str(tmp_path / "proof") if value == "PROOF" else value for key, value in METHODS[target].items()}
    config["trainer"]["plugins"] = [{"_target_": target, **given}]
    with pytest.raises(UserError, match=f"trainer.plugins.0.*{target} is outside what a configuration may call"):
        check(config)
    assert (tmp_path / "proof").is_dir()


@pytest.mark.parametrize(
    ("allowed", "target", "passes"),
    [
        ("string", "string.Template", True),
        ("string", "string.Template.substitute", False),
        ("tests.test_parts", "tests.test_parts.Path", False),
        ("tests.test_parts", "tests.test_parts.METHODS", False),
        ("tests.test_parts", "tests.test_parts._passes", False),
        ("tests.test_parts.Own", "tests.test_parts.Own", True),
        ("tests.test_parts", "tests.test_parts.Own.Inner", False),
        ("tests.tes", "tests.test_parts.Own", False),
    ],
)
def test_of_a_package_of_the_users_own_what_it_makes_itself(
    allowed: str, target: str, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, allowed)
    assert _passes(target, "strategy") is passes


def test_hydra_is_one_whose_own_block_list_is_known() -> None:
    with (Path(tl_lightning.__file__).parents[1] / "pyproject.toml").open("rb") as file:
        needed = tomllib.load(file)["project"]["dependencies"]
    assert "hydra-core>=1.3.8,<1.4" in needed


class Own:
    """A part of a package of one's own."""

    class Inner:
        """Not at the top of its module."""
