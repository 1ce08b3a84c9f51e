"""The wheel in a fresh environment, used from elsewhere: the configuration and the data come with it."""

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent


def _do(*words: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=300, check=False, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment that holds the wheel, and sees only our dependencies beside it."""
    folder = tmp_path_factory.mktemp("wheel")
    _do(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv/bin/python"
    _do(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    # A .pth file adds a folder without reading the .pth files in it: our own editable install stays out.
    site = Path(_do(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_package_is_that_of_the_wheel_and_brings_its_configuration(python: Path, tmp_path: Path) -> None:
    where = Path(_do(python, "-c", "import tl_lightning; print(tl_lightning.__file__)", cwd=tmp_path).strip())
    assert where.is_relative_to(python.parent.parent)
    packed = {path.relative_to(where.parent / "conf") for path in (where.parent / "conf").rglob("*.yaml")}
    assert packed == {path.relative_to(ROOT / "conf") for path in (ROOT / "conf").rglob("*.yaml")}
    assert len(packed) > 30


def test_help_and_a_run_from_elsewhere(python: Path, tmp_path: Path, tiny: Callable[[str], Path]) -> None:
    assert "bert_sst2" in _do(python, "-m", "tl_lightning", cwd=tmp_path)
    script = _do(python.parent / "tl-lightning", "+experiment=bert_sst2", "--cfg", "job", cwd=tmp_path)
    assert "google-bert/bert-base-uncased" in script
    (tmp_path / "mine/experiment").mkdir(parents=True)
    (tmp_path / "mine/experiment/own.yaml").write_text(
        "# @package _global_\n# My own.\ndefaults:\n  - override /data: reviews\nname: own\n"
        "trainer:\n  max_epochs: 1\n  limit_train_batches: 2\n"
    )
    words = ["backbone=hf_text", f"backbone.name={tiny('bert')}", "trainer.accelerator=cpu", "trainer.devices=1"]
    _do(python, "-m", "tl_lightning", "--config-dir", "mine", "+experiment=own", *words, cwd=tmp_path)
    (record,) = (tmp_path / "outputs/own").glob("*/run.json")
    content = json.loads(record.read_text())
    assert content["status"] == "finished"
    assert content["data"]["rows"]["test"] == 256


def test_an_extra_that_is_missing_is_named(python: Path, tmp_path: Path) -> None:
    lacking = "package:no_such_package_here/model"
    done = subprocess.run(
        [python, "-m", "tl_lightning", "backbone=hf_text", f"backbone.name={lacking}", "data=reviews", "logger=csv"],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install no_such_package_here" in done.stderr
    assert "Traceback" not in done.stderr
