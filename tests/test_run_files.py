"""What is read of a run's files: all that real runs write, nothing beyond the bounds, and never another fault."""

import ast
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.studies.fabricate import CONFIG as CONFIGURATION
from tl_lightning import run_files
from tl_lightning.errors import UserError
from tl_lightning.record import CONFIG, RECORD, Record, read_record
from tl_lightning.recorded import FACTS, STATUSES, config_in, instant, record_in
from tl_lightning.run import write_config
from tl_lightning.run_files import CONFIG_BOUND, CURVES_BOUND, NOTE_BOUND, RECORD_BOUND, Bound, read_json, read_rows
from tl_lightning.run_files import read_yaml as read_yaml_file
from tl_lightning.studies import index
from tl_lightning.studies.reading import Run

PACKAGE = Path(run_files.__file__).parent


def _yaml(folder: Path, text: str, bound: Bound = CONFIG_BOUND) -> Any:
    (folder / CONFIG).write_text(text)
    return read_yaml_file(folder / CONFIG, bound)


def test_a_record_with_a_thousand_heads_and_a_configuration_with_all_of_imagenet_are_read(tmp_path: Path) -> None:
    head = {"lr": 1e-3, "weight_decay": 1e-2, "val/accuracy": 0.123456789, "epoch": 12, "out_at_step": None}
    heads = {"chosen": head, "selected_by": "val/accuracy", "heads": [head] * 1000}
    record = Record(tmp_path, {"name": "grid", "seed": 0, "overrides": [f"word{n}={n}" for n in range(1000)]})
    record.end("finished", head_grid=heads, metrics={f"test/f1_of_{n}": 0.5 for n in range(1000)})
    assert len(read_record(tmp_path)["head_grid"]["heads"]) == 1000
    assert (tmp_path / RECORD).stat().st_size < RECORD_BOUND.size / 10
    names = [f"n{n:08d} some name of a class" for n in range(21_841)]
    write_config(tmp_path, {**CONFIGURATION, "data": {"classes": names, "grid": [1e-5 * n for n in range(1000)]}})
    stored = config_in(tmp_path / CONFIG)
    assert stored["data"]["classes"] == names
    assert stored["data"]["grid"][1] == 1e-5


def test_a_record_of_each_status_that_the_package_writes_is_read(tmp_path: Path) -> None:
    """A status that `runs` does not know would hide its run."""
    calls = [
        node.args[0].value
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "end"
        if node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    ]
    assert set(calls) >= {"finished", "failed", "interrupted", "pruned"}
    assert set(calls) < set(STATUSES)
    for status in STATUSES:
        Record(tmp_path, {"name": "a", "seed": 1, "overrides": []}).end(status)
        assert read_record(tmp_path)["status"] == status


def test_what_is_at_a_bound_is_read_and_what_is_beyond_is_not(tmp_path: Path) -> None:
    bound, path = Bound(100, depth=3, items=7), tmp_path / "a.json"
    for text, wanted in (
        ("[[[1]]]", [[[1]]]),
        ("[1,2,3,4,5,6]", [1, 2, 3, 4, 5, 6]),
        ('{"a":1,"b":2,"c":3}', {"a": 1, "b": 2, "c": 3}),
        (f"[{' ' * 98}]", []),
    ):
        path.write_text(text)
        assert read_json(path, bound) == _yaml(tmp_path, text, bound) == wanted
    for text, message in (
        ("[[[[1]]]]", "nested too deep: up to 3 levels"),
        ("[1,2,3,4,5,6,7]", "holds too much: up to 7 keys and values"),
        ('{"a":1,"b":2,"c":3,"d":4}', "holds too much"),
        (f"[{' ' * 99}]", "too large: 101 bytes; up to 100 are read"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_json(path, bound)
        with pytest.raises(UserError, match=message):
            _yaml(tmp_path, text, bound)


def test_yaml_is_read_as_hydra_reads_it(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: -1.5E+2\nc: 2026-01-31\nd: .inf\ne: 1_000\nf: .5\ng: '1e-3'\nh: on\ni: 1e\nj: -.25e1\nk: 1.\n"
    from omegaconf import OmegaConf

    assert _yaml(tmp_path, text) == OmegaConf.to_container(OmegaConf.create(text))


def test_an_alias_counts_as_what_it_stands_for(tmp_path: Path) -> None:
    assert _yaml(tmp_path, "a: &a [1, 2]\nb: [*a, *a]\nc: &c 3\nd: *c") == {
        "a": [1, 2],
        "b": [[1, 2], [1, 2]],
        "c": 3,
        "d": 3,
    }
    shared = [1, 2]
    assert _yaml(tmp_path, yaml.safe_dump({"a": shared, "b": shared})) == {"a": shared, "b": shared}
    ten = ", ".join(["*a"] * 10)
    assert len(_yaml(tmp_path, f"a: &a [1, 2]\nb: [{ten}]", Bound(1000, 3, 38))["b"]) == 10
    with pytest.raises(UserError, match="holds too much"):
        _yaml(tmp_path, f"a: &a [1, 2]\nb: [{ten}]", Bound(1000, 3, 36))


def test_a_file_that_grows_while_it_is_read_and_a_disk_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with path.open("rb") as file, pytest.raises(UserError, match="it grew while it was read; up to 2 bytes"):
        list(run_files._chunks(file, path, 2))
    seconds = iter([0.0, run_files.READ_S + 1])
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with pytest.raises(UserError, match="its disk takes more than 30 s"):
        read_json(path, NOTE_BOUND)


def test_a_device_is_not_opened_and_a_link_inside_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inside.json").write_text("[1]")
    (tmp_path / "a.json").symlink_to("inside.json")
    assert read_json(tmp_path / "a.json", NOTE_BOUND) == [1]
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened"))
    with pytest.raises(UserError, match="/dev/null is a device, no regular file"):
        run_files.opened(Path("/dev/null"))


def test_rows_without_their_end_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,epoch,name,value\r\n1,0,a,0.5\r\n2,0,a,0.2")
    assert list(read_rows(path, CURVES_BOUND)) == [["step", "epoch", "name", "value"], ["1", "0", "a", "0.5"]]
    for content in (b"a,\xff\n", b'"' + b"x" * 200_000 + b"\n"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot be read"):
            list(read_rows(path, CURVES_BOUND))


def test_times_of_any_zone_are_one_time() -> None:
    assert instant("2026-01-31T11:00:00+0200") == instant("2026-01-31T09:00:00Z") == instant("2026-01-31T09:00:00")
    for odd in ("", "now", "2026-13-01", "0001-01-01T00:00:00+1400", "9999-12-31T23:00:00-1400", None):
        assert instant(odd) is None


KEYS = st.text(max_size=4) | st.sampled_from(["test/a", "test", "host", "pid", "rows"])
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None), max_size=8)
    | st.sampled_from([*STATUSES, "2026-01-31T00:00:00+0000", 10**400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
RECORDS = st.fixed_dictionaries({"status": st.sampled_from(STATUSES)}, optional=dict.fromkeys(FACTS, PLAIN))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=RECORDS | PLAIN)
def test_any_record_is_read_or_refused_in_one_line(record: Any, tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(json.dumps(record))
    row = index._read(tmp_path, [1, 2])
    assert row.whole()
    json.dumps(vars(row), allow_nan=False).encode()
    try:
        content = record_in(tmp_path / RECORD)
    except UserError as fault:
        assert "\n" not in str(fault)  # noqa: PT017
        assert str(fault).startswith(str(tmp_path / RECORD))  # noqa: PT017
        assert row.status == "unreadable"
        return
    assert row.status == content["status"]
    run = Run(tmp_path, content, {"data.a": 1})
    assert all(isinstance(value, float) for value in run.metrics().values())
    assert isinstance(run.seed, int)


@settings(max_examples=400, deadline=None)
@given(record=st.dictionaries(st.sampled_from(["status", *FACTS]), PLAIN), config=st.dictionaries(st.text(), PLAIN))
def test_a_run_made_of_anything_answers(record: dict[str, Any], config: dict[str, Any]) -> None:
    run = Run(Path("run"), record, config)
    assert isinstance(run.seed, int)
    assert run.started.tzinfo is not None
    assert all(isinstance(value, float) for value in run.metrics("val").values())
    assert all(isinstance(word, str) for word in run.choices.values())
    run.fact("data", "rows", "test")


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="ab:-?&*!|>{}[],#'\"\n 01.e", max_size=40) | st.binary(max_size=40))
def test_any_text_is_read_or_refused_in_one_line(text: str | bytes, tmp_path: Path) -> None:
    for name, read in (("a.json", read_json), ("a.yaml", read_yaml_file)):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            read(tmp_path / name, NOTE_BOUND)
        except UserError as fault:
            assert "\n" not in str(fault)  # noqa: PT017
