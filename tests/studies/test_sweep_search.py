"""A search on a real study: it goes on, prunes, shares, and refuses what cannot be before any trial runs."""

import csv
import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from tl_lightning import run as run_module
from tl_lightning.callbacks import Pruning
from tl_lightning.job import Job
from tl_lightning.record import RECORD, read_record, write_json
from tl_lightning.studies import storage, takeover

Multirun = Callable[..., int]
Compose = Callable[..., dict[str, Any]]
SPACE = "optimizer.lr=tag(log,interval(1e-4,1e-2))"


def _studies(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.glob("outputs/multirun/mini/*/study.db"))


def _study(folder: Path) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder / 'study.db'}")


def _history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def _trained(folder: Path) -> list[Path]:
    return sorted(path.parent for path in folder.glob(f"*/{RECORD}"))


def test_the_same_command_goes_on_with_its_study(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["search=typed", SPACE, "strategy=layer_decay,full"]
    assert multirun(*command, "hydra.sweeper.n_trials=2") == 0
    (folder,) = _studies(tmp_path)
    assert [trial.state for trial in _study(folder).trials] == [TrialState.COMPLETE] * 2
    before = {path: (path / RECORD).stat().st_mtime for path in _trained(folder)}
    assert multirun(*command, "hydra.sweeper.n_trials=3") == 0
    (folder,) = _studies(tmp_path)
    trials = _study(folder).trials
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert {path: (path / RECORD).stat().st_mtime for path in before} == before, "what was done is not done again"
    for trial in trials:
        record = read_record(folder / trial.user_attrs["folder"])
        assert trial.value == record["metrics"]["val/accuracy"]
        assert f"optimizer.lr={trial.params['++optimizer.lr']}" in record["overrides"]
        assert f"strategy={trial.params['strategy']}" in record["overrides"]
    rows = _history(folder)
    assert [row["state"] for row in rows] == ["complete"] * 3
    assert {"trial", "quality", "optimizer.lr", "strategy", "seconds", "folder"} <= rows[0].keys()
    assert "best trial" in capsys.readouterr().out


def test_a_trial_that_its_process_left_goes_on(multirun: Multirun, tmp_path: Path) -> None:
    command = ["search=typed", SPACE, "hydra.sweeper.n_trials=2"]
    assert multirun(*command) == 0
    (folder,) = _studies(tmp_path)
    gone = _study(folder).trials[1]
    with subprocess.Popen(["true"]) as process:
        process.wait()
    left = folder / gone.user_attrs["folder"]
    with sqlite3.connect(folder / "study.db") as data:
        data.execute("update trials set state = 'RUNNING' where number = 1")
        data.execute("delete from trial_values where trial_id = 2")
        data.execute("update trial_user_attributes set value_json = ? where key = 'pid'", (str(process.pid),))
    write_json(left / RECORD, {**read_record(left), "status": "running", "process": {"host": "gone", "pid": 1}})
    assert multirun(*command) == 0
    trials = _study(folder).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert trials[2].params == trials[1].params
    assert trials[2].user_attrs["folder"] == gone.user_attrs["folder"], "found again by its parameters"
    assert len(read_record(left)["resumed"]) == 1
    assert [row["trial"] for row in _history(folder)] == ["0", "2"], "two trials, however often they were started"


def test_a_trial_that_kills_is_given_up() -> None:
    study = optuna.create_study()
    for death in range(takeover.MOST_DEATHS + 1):
        study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial = study.trials[-1]
        takeover.put_back(study, trial, died=True)
        waits = [t for t in study.trials if t.state == TrialState.WAITING]
        assert len(waits) == (1 if death < takeover.MOST_DEATHS else 0)
    assert len({trial.params["x"] for trial in study.trials}) == 1
    assert takeover.replaced(study.trials) == set(range(takeover.MOST_DEATHS))


def test_silence_is_death_only_after_a_while() -> None:
    study = optuna.create_study()
    trial = study.ask()
    for host, pid, beat, dead in [
        ("elsewhere", 1, time.time() - takeover.SILENT_S / 2, False),
        ("elsewhere", 1, time.time() - takeover.SILENT_S * 2, True),
    ]:
        for key, value in {"host": host, "pid": pid, "beat": beat}.items():
            trial.set_user_attr(key, value)
        assert takeover.dead(study.trials[0]) is dead


def test_a_grid_is_every_combination_once(multirun: Multirun, tmp_path: Path) -> None:
    command = ["search=typed", "seed=0,1", "data.shots=choice(4,8)", "hydra.sweeper.sampler=grid"]
    assert multirun(*command) == 0
    assert multirun(*command) == 0
    (folder,) = _studies(tmp_path)
    rows = sorted((row["seed"], row["data.shots"]) for row in _history(folder))
    assert rows == [("0", "4"), ("0", "8"), ("1", "4"), ("1", "8")]


def test_quality_and_cost_together(multirun: Multirun, tmp_path: Path) -> None:
    goals = ["hydra.sweeper.objectives=[quality,parameters,val/loss]", "hydra.sweeper.sampler=nsga2"]
    assert multirun("search=typed", "strategy=full,linear_probe", "hydra.sweeper.n_trials=3", *goals) == 0
    (folder,) = _studies(tmp_path)
    study = _study(folder)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    for trial in study.trials:
        record = read_record(folder / trial.user_attrs["folder"])
        metrics, trained = record["metrics"], record["parameters"]["trained"]
        assert trial.values == [metrics["val/accuracy"], trained, metrics["val/loss"]]


def test_a_trial_without_a_number_fails_and_the_others_go_on(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def odd_run(config: dict[str, Any], *rest: Any) -> tuple[Path, float]:
        folder, value = run_module.placed_run(config, *rest)
        return folder, _odd(config, value)

    monkeypatch.setattr("tl_lightning.studies.jobs.placed_run", odd_run)
    assert multirun("search=typed", "seed=0,1,2", "hydra.sweeper.sampler=grid") == 0
    (folder,) = _studies(tmp_path)
    states = {row["seed"]: row["state"] for row in _history(folder)}
    assert states == {"0": "complete", "1": "fail", "2": "fail"}


def _odd(config: dict[str, Any], value: float) -> float:
    if config["seed"] == 2:
        raise RuntimeError("a bug")
    return float("nan") if config["seed"] == 1 else value


def test_where_every_trial_fails_the_command_fails(multirun: Multirun, tmp_path: Path) -> None:
    assert multirun("search=typed", SPACE, "data.label=nosuch", "hydra.sweeper.n_trials=2") == 2
    (folder,) = _studies(tmp_path)
    assert [row["state"] for row in _history(folder)] == ["fail"] * 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer.lrr=interval(1e-5,1e-3)"], "optimizer.lrr: AdamW takes no lrr"),
        (["strategy=full,loraa"], "There is no strategy=loraa"),
        (["optimizer.lr=interval(0.0,1e-3)"], "optimizer.lr=0.0: above 0"),
        (["optimizer.lr=interval(1e-3,1e-5)"], "optimizer.lr=interval(1e-3,1e-5) cannot be searched"),
        (["optimizer.lr=tag(log,interval(0.0,1e-5))"], "cannot be searched"),
        ([], "nothing to choose"),
        ([SPACE, "hydra.sweeper.sampler=tpee"], "no such sampler; did you mean tpe?"),
        ([SPACE, "hydra.sweeper.n_trials=0"], "n_trials=0: at least 1"),
        ([SPACE, "hydra.sweeper.n_trials=many"], "n_trials"),
        ([SPACE, "hydra.sweeper.pruner=medium"], "did you mean median?"),
        ([SPACE, "hydra.sweeper.objectives=[test/accuracy]"], "nothing is ever selected on test"),
        ([SPACE, "hydra.sweeper.objectives=[quality,seconds]", "hydra.sweeper.pruner=median"], "pruner=null"),
        ([SPACE, "hydra.sweeper.sampler=grid"], "a grid needs choice(...) or range(...)"),
        ([SPACE, "hydra.sweeper.storage=nosuch://x"], "cannot be used as a storage"),
        ([SPACE, "hydra.sweeper.nosuch=1"], "nosuch"),
    ],
)
def test_what_cannot_be_is_told_before_any_trial(
    multirun: Multirun, words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert multirun("search=typed", *words) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told
    assert not list(tmp_path.rglob(RECORD))


def test_a_study_that_cannot_be_opened(
    multirun: Multirun, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["search=typed", SPACE, "hydra.sweeper.n_trials=1", "hydra.sweeper.study=named"]
    assert multirun(*command) == 0
    (folder,) = _studies(tmp_path)
    assert multirun("search=typed", "optimizer.lr=interval(0.1,0.2)", *command[2:]) == 2
    assert "searches another space:\n  optimizer.lr: " in capsys.readouterr().err
    monkeypatch.setattr(storage, "LOCKED_S", 0.2)
    with sqlite3.connect(folder / "study.db") as other:
        other.execute("begin exclusive")
        assert multirun(*command[:2], "hydra.sweeper.n_trials=2", command[3]) == 2
        assert "is held by another process" in capsys.readouterr().err
        other.rollback()
    (folder / "study.db").write_bytes(b"no database" * 1000)
    assert multirun(*command) == 2
    told = capsys.readouterr().err
    assert "study.db is damaged: move it away" in told
    assert "Traceback" not in told


def test_a_journal_file_serves_as_a_storage(multirun: Multirun, tmp_path: Path) -> None:
    place = tmp_path / "shared" / "all.journal"
    command = ["search=typed", SPACE, f"hydra.sweeper.storage={place}", "hydra.sweeper.study=shared"]
    assert multirun(*command, "hydra.sweeper.n_trials=1") == 0
    assert multirun(*command, "hydra.sweeper.n_trials=2") == 0
    rows = _history(tmp_path / "outputs/multirun/mini/shared")
    assert [row["state"] for row in rows] == ["complete"] * 2


def test_without_optuna_the_extra_is_named(
    multirun: Multirun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("tl_lightning.studies.space")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "optuna.distributions", None)
    assert multirun("search=typed", SPACE) == 2
    assert "pip install 'tl_lightning[sweep]'" in capsys.readouterr().err


def test_a_password_is_not_shown() -> None:
    assert storage.shown("mysql://me:secret@host/db") == "mysql://me@host/db"
    assert storage.shown("sqlite:///a.db") == "sqlite:///a.db"


@pytest.fixture
def config(words: list[str], compose: Compose, tmp_path: Path) -> dict[str, Any]:
    return compose(*words, "trainer.max_epochs=4", f"output_dir={tmp_path}")


def test_a_hopeless_run_ends_early_and_is_not_tested(config: dict[str, Any], tmp_path: Path) -> None:
    asked: list[tuple[int, float]] = []

    def judge(validation: int, value: float) -> bool:
        asked.append((validation, value))
        return validation == 2

    value = run_module.run(config, tmp_path / "a", job=Job("trial", callbacks=[Pruning("val/accuracy", judge)]))
    record = read_record(tmp_path / "a")
    assert record["status"] == "pruned"
    assert [validation for validation, _ in asked] == [1, 2]
    assert value == record["metrics"]["val/accuracy"] == max(value for _, value in asked)
    assert not [name for name in record["metrics"] if name.startswith("test/")]
    assert not (tmp_path / "a/metrics.json").exists()
    run_module.run({**config, "resume": "auto"}, tmp_path / "mini/new")
    assert read_record(tmp_path / "mini/new")["status"] == "finished", "auto does not go on with it"


def test_the_pruner_of_a_study_ends_a_trial(
    multirun: Multirun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruner = ["hydra.sweeper.pruner=median", "hydra.sweeper.startup_trials=1", "objective.monitor=loss"]
    space = ["search=typed", "optimizer.lr=choice(1e-2,1e-9)", "trainer.max_epochs=3", "hydra.sweeper.sampler=grid"]
    assert multirun(*space, *pruner) == 0
    (folder,) = _studies(tmp_path)
    rows = {row["optimizer.lr"]: row for row in _history(folder)}
    assert rows["0.01"]["state"] == "complete"
    assert rows["1e-09"]["state"] == "pruned"
    assert read_record(folder / rows["1e-09"]["folder"])["status"] == "pruned"
    assert _study(folder).trials[1].intermediate_values.keys() == {1}


def test_a_study_out_of_reach_stops_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from tl_lightning.studies.pruning import judge

    (tmp_path / "study.db").write_bytes(b"no database" * 1000)
    known = {"study": "s", "storage": f"sqlite:///{tmp_path / 'study.db'}", "trial": 0}
    hopeless = judge({**known, "pruner": "hyperband", "startup_trials": 5}, epochs=3)
    assert hopeless(1, 0.5) is False
    assert "cannot be asked" in caplog.text


def test_importances_are_kept(tmp_path: Path) -> None:
    from tl_lightning.studies import history

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(
        lambda trial: trial.suggest_float("++big", 0, 1) * 9 + trial.suggest_float("small", 0, 1), n_trials=9
    )
    history.write(study, tmp_path, ["quality"], importance=True)
    shares = json.loads((tmp_path / "importance.json").read_text())["quality"]
    assert list(shares) == ["big", "small"]
    assert shares["big"] > 0.7
    assert sum(shares.values()) == pytest.approx(1)
