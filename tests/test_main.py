"""The command line before anything heavy: help, misspellings, the light import."""

import subprocess
import sys

import pytest

from tl_lightning.__main__ import explained, overrides
from tl_lightning.config import experiments
from tl_lightning.errors import UserError

LIGHT = """
import sys
from tl_lightning.__main__ import main
sys.argv = ["tl_lightning", *{words!r}]
try:
    main()
except SystemExit as end:
    print("exit", end.code)
heavy = {{"torch", "lightning", "transformers", "datasets", "wandb", "pyarrow", "numpy"}} & set(sys.modules)
print("heavy", sorted(heavy))
"""


def _light(*words: str) -> subprocess.CompletedProcess[str]:
    script = LIGHT.format(words=words)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("words", [(), ("--help",), ("help",)])
def test_help_is_short_lists_the_experiments_and_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    done = _light(*words)
    assert done.stdout.endswith("heavy []\n"), done.stderr
    for name, headline in experiments().items():
        assert f"{name} " in done.stdout
        assert headline
        assert headline in done.stdout
    assert len(done.stdout.splitlines()) < 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("+experiment=bert_sst",), "did you mean experiment=bert_sst2?"),
        (("experiment=bert_sst2", "strategy=linear_prob"), "did you mean strategy=linear_probe?"),
        (("experiment=bert_sst2", "optimzer.lr=1"), "did you mean optimizer?"),
        (("experiment=bert_sst2", "seed=abc"), "'abc' of type 'str' could not be converted to Integer"),
        (("experiment=bert_sst2", "head=null"), "must be a string"),
        (("fitt",), "There is no command fitt; there is: fit"),
    ],
)
def test_a_misspelt_word_is_told_in_one_message_without_anything_heavy(words: tuple[str, ...], message: str) -> None:
    done = _light(*words)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == "exit 2\nheavy []\n"


def test_the_whole_configuration_shows_without_anything_heavy() -> None:
    done = _light("+experiment=bert_sst2", "data.shots=8", "--cfg", "job")
    assert "shots: 8" in done.stdout
    assert done.stdout.endswith("heavy []\n"), done.stderr


def test_what_is_typed_becomes_what_hydra_takes() -> None:
    typed = ["fit", "experiment=x", "data.shots=8", "+a.b=1", "strategy=full", "hydra.run.dir=x", "~callbacks.last"]
    taken = ["+experiment=x", "++data.shots=8", "+a.b=1", "strategy=full", "hydra.run.dir=x", "~callbacks.last"]
    assert overrides(typed) == taken


def test_options_may_stand_between_overrides() -> None:
    typed = ["experiment=x", "--multirun", "seed=0,1", "--config-dir", "mine", "~callbacks.last"]
    taken = ["--multirun", "--config-dir", "mine", "+experiment=x", "seed=0,1", "~callbacks.last"]
    assert overrides(typed) == taken


def test_faults_of_ours_are_not_explained_away() -> None:
    assert explained(ValueError("a bug")) is None
    assert explained(UserError("yours")) == "yours"


def test_memory_and_disk_say_what_to_type() -> None:
    assert "data.batch_size" in (explained(MemoryError()) or "")
    assert "output_dir=" in (explained(OSError(28, "No space left on device", "/full/disk")) or "")
    assert "/full/disk" in (explained(OSError(28, "No space left on device", "/full/disk")) or "")
