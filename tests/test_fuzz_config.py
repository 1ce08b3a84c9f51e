"""Whatever is changed in a configuration: it is refused in words, or the checked configuration says the change."""

import copy
import math
import string
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tl_lightning.__main__ import explained, of_hydra
from tl_lightning.check import check
from tl_lightning.config import RunConfig, experiments
from tl_lightning.values import nearest

NAMES = sorted(experiments())
Path = tuple[str | int, ...]
Compose = Callable[..., dict[str, Any]]
LETTERS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=3)
WRONG = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["1", "1e-3", "true", "null", "", "???", "none", "nan", "inf", "0x10", "a/b", "\x00", "é", "[1]"]),
    st.sampled_from(["${seed}", "${oc.env:HOME}", "${oc.create:{a:1}}", "${"]),
    st.lists(st.one_of(st.integers(), st.text(max_size=3), st.none(), st.floats()), max_size=3),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.just({"_target_": "os.system", "command": "true"}),
    st.just([[{"_target_": "os.system", "command": "true"}]]),
    st.just({"_target_": "torch.nn.ReLU"}),
    st.just({"_target_": "tl_lightning.optim.cosine", "_partial_": True}),
    st.binary(max_size=2),
)
FACTORS = st.sampled_from([0, -1, 1e-6, 1e6, 1e30, -1e30, 0.5, 3])


class Change(NamedTuple):
    """A changed configuration, and what it should say where."""

    config: dict[str, Any]
    at: Path
    value: Any
    gone: bool = False


def _places(node: Any, at: Path = ()) -> Iterator[Path]:
    inside = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in inside:
        yield (*at, key)
        yield from _places(value, (*at, key))


def _read(node: Any, at: Sequence[str | int]) -> Any:
    for key in at:
        node = node[key]
    return node


def _deep(depth: int) -> Any:
    node: Any = 1
    for _ in range(depth):
        node = {"a": node}
    return node


@st.composite
def changes(draw: Callable[[Any], Any], config: dict[str, Any]) -> Change:
    """One change of any kind at any place."""
    config = copy.deepcopy(config)
    at: Path = draw(st.sampled_from(sorted(_places(config), key=str)))
    parent, last, value = _read(config, at[:-1]), at[-1], _read(config, at)
    kind = draw(st.sampled_from(["wrong", "scale", "remove", "typo", "extra", "deep", "swap"]))
    if kind == "remove":
        del parent[last]
        return Change(config, at, None, gone=True)
    if kind == "typo" and isinstance(last, str):
        misspelt = draw(st.sampled_from([last[:-1], last + last[-1], last.upper(), last[::-1], f"{last} ", f".{last}"]))
        parent[misspelt] = parent.pop(last)
        return Change(config, (*at[:-1], misspelt), value)
    if kind == "extra" and isinstance(parent, dict):
        key = draw(st.one_of(LETTERS, st.integers(0, 3), st.sampled_from(["_args_", "_recursive_", "_partial_"])))
        parent[key] = new = draw(WRONG)
        return Change(config, (*at[:-1], key), new)
    if kind == "scale" and isinstance(value, (int, float)) and not isinstance(value, bool):
        new = value * draw(FACTORS)
    elif kind == "deep":
        new = _deep(draw(st.sampled_from([2, 20, 500])))
    elif kind == "swap":
        new = copy.deepcopy(_read(config, draw(st.sampled_from(sorted(_places(config), key=str)))))
    else:
        new = draw(WRONG)
    parent[last] = new
    return Change(config, at, new)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and math.isnan(one):
        return math.isnan(other)
    as_meant = type(one) is float and type(other) is int  # a whole number where the annotation says float
    return (type(one) is type(other) or as_meant) and bool(one == other)


def _holds(full: Any, asked: Any) -> bool:
    """Whether a checked part says all that was asked; it says the defaults too."""
    if isinstance(asked, dict) and isinstance(full, dict):
        return all(key in full and _holds(full[key], value) for key, value in asked.items())
    return _same(full, asked)


def _outcome(step: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """What it gives, or how the command line would tell of its fault; anything that it would not tell is raised."""
    try:
        return step(), ""
    except Exception as fault:
        told = explained(of_hydra(fault))
        if told is None:
            raise
        return {}, told


def _judge(change: Change) -> bool:
    """True where refused; an assertion where a change was taken in silence or ended in anything but words."""
    full, told = _outcome(lambda: check(change.config))
    if told:
        assert told.startswith("The configuration has "), told
        assert len(told) < 6000
        return True
    if change.gone:  # a default of the signature, a callback less, or a list element less
        assert _is_optional(full, change), f"{change.at} is gone and nothing stands for it"
    else:
        assert _holds(_read(full, change.at), change.value), f"{change.at} does not say {change.value!r}"
    assert not list(_unsaid(full)), "NaN, infinity and interpolations are never taken"
    return False


def _is_optional(full: dict[str, Any], change: Change) -> bool:
    *up, last = change.at
    if isinstance(last, int) or up == ["callbacks"]:
        return True
    if not up:
        return last in RunConfig.__dataclass_fields__
    return last in _read(full, up) or last == "_partial_"


def _unsaid(node: Any) -> Iterator[Any]:
    for at in _places(node):
        value = _read(node, at)
        if (isinstance(value, float) and not math.isfinite(value)) or (isinstance(value, str) and "${" in value):
            yield value


def _words(name: str) -> list[str]:
    """An experiment as a job has it: one of a chain names weights in the folder of Hydra's own sweep."""
    return [f"experiment={name}", *(["experiment/quickstart_image=scratch"] if name == "quickstart_image" else [])]


def _fuzz(config: dict[str, Any], examples: int) -> tuple[int, int]:
    """How many changes were refused and how many were taken."""
    counts = [0, 0]

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(changes(config))
    def every(change: Change) -> None:
        counts[0 if _judge(change) else 1] += 1

    every()
    return counts[0], counts[1]


def test_a_changed_configuration_is_refused_or_says_so(compose: Compose) -> None:
    refused, taken = _fuzz(compose(f"experiment={NAMES[0]}"), 150)
    assert refused > 50
    assert taken > 5, "legal changes must be among them, else nothing shows that they are taken"


def test_a_changed_whole_configuration_is_refused_or_says_so(compose: Compose) -> None:
    """With every default of the signatures filled in: more places to change."""
    refused, taken = _fuzz(check(compose("experiment=quickstart", "data.clean=[html,lower]")), 150)
    assert refused > 50
    assert taken > 5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_five_hundred_changes_of_every_experiment(name: str, compose: Compose) -> None:
    config = compose(*_words(name))
    plain, whole = _fuzz(config, 500), _fuzz(check(config), 500)
    assert sum(plain) >= 500
    assert sum(whole) >= 500
    assert min(*plain, *whole) > 20


PLACES = [
    *("optimizer.lr", "optimizer", "data.batch_size", "data.clean", "data", "trainer.max_epochs", "trainer.precision"),
    *("strategy", "strategy.layer_decay", "callbacks.best", "callbacks", "head.dropout", "head", "backbone.name"),
    *("schedule.warmup", "seed", "name", "resume", "output_dir", "logger", "average", "on_nan", "objective.monitor"),
    *("backbone._target_", "head._partial_", "nosuch", "nosuch.key", "data.nosuch", "trainer.a.b.c", "callbacks.x.y"),
    *("hydra.run.dir", "hydra.job.name", "hydra.nosuch", "experiment"),
]
TYPED = [
    *("1", "-1", "0", "1e-3", "1e400", "nan", "inf", "true", "null", "", "abc", "'1'", "[1,2]", "[]", "{a:1}", "{}"),
    *("{_target_:os.system,command:'true'}", "[{_target_:os.system}]", "${seed}", "${nosuch}", "${oc.env:HOME}"),
    *("\\${seed}", "${oc.create:{_target_:os.system}}", "'\\${oc.create:{a:1}}'", "a,b", "full", "linear", "é", "???"),
    *("[", "{", "'", "a=b", "=", "choice(1,2)", "range(1,3)", "${", "\x00", "1_000", "0x10", "1" * 400, "a." * 200),
]
WORDS = st.one_of(
    st.builds("{}{}={}".format, st.sampled_from(["", "+", "++"]), st.sampled_from(PLACES), st.sampled_from(TYPED)),
    st.builds("~{}".format, st.sampled_from(PLACES)),
    st.builds("{}={}".format, st.builds("{}.{}".format, st.sampled_from(PLACES), LETTERS), st.sampled_from(TYPED)),
    st.builds("data{}={}".format, st.sampled_from([".a" * 9, ".a" * 300]), st.sampled_from(TYPED[:3])),
)


def _type(word: str, name: str, before: dict[str, Any], compose: Compose) -> bool:
    """True where the word was refused in words; an assertion where it was taken in silence."""
    full, told = _outcome(lambda: check(compose(*_words(name), word)))
    if told:
        assert len(told) < 3000
        return True
    key = word.lstrip("+~").partition("=")[0]
    if key.split(".")[0] == "hydra":
        return False  # Hydra's own settings are no part of the run's configuration
    if key != "experiment" and full == before:
        assert _typed_what_stands(word, before), f"{word!r} changed nothing"
    return False


def _typed_what_stands(word: str, before: dict[str, Any]) -> bool:
    """The word names what the configuration says already (strategy=full, seed=0, average=null)."""
    key, _, value = word.lstrip("+~").partition("=")
    value = value.replace("${seed}", str(before["seed"]))
    try:
        standing = _read(before, key.split("."))
    except KeyError:
        return False
    if word.startswith("~"):  # what was taken away was what the signature says without it, such as average: null
        return not isinstance(standing, dict)
    if isinstance(standing, dict):
        return value in ("full", "linear", "{}")  # Hydra merges a mapping: an empty one says nothing
    if type(_number(value)) in (int, float) and type(standing) in (int, float):
        return bool(_number(value) == standing)  # 0 for 0.0
    return str(standing).lower() in (value, value.replace("null", "none"))


def _number(value: str) -> Any:
    try:
        return float(value) if "." in value or "e" in value else int(value)
    except ValueError:
        return value


def _fuzz_words(name: str, examples: int, compose: Compose) -> tuple[int, int]:
    before, counts = check(compose(*_words(name))), [0, 0]

    @settings(
        max_examples=examples, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(WORDS)
    def every(word: str) -> None:
        counts[0 if _type(word, name, before, compose) else 1] += 1

    every()
    return counts[0], counts[1]


def test_a_typed_word_is_refused_or_changes_what_it_says(compose: Compose) -> None:
    refused, taken = _fuzz_words("bert_sst2", 40, compose)
    assert refused > 10
    assert taken > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_typed_words_for_every_experiment(name: str, compose: Compose) -> None:
    refused, taken = _fuzz_words(name, 150, compose)
    assert refused > 50
    assert taken > 5


@pytest.mark.parametrize("name", ["a", "", "x" * 500, "\x00"])
def test_the_hint_at_the_nearest_name_takes_any_name(name: str) -> None:
    assert isinstance(nearest(name, ["alpha", "beta"]), str)
