"""Every experiment: composes, passes the check, and leaves a whole run directory, made small."""

import csv
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
import yaml

from tests.hub_server import COMMIT, Hub
from tl_lightning.check import check
from tl_lightning.config import config_folder, experiments

FILES = sorted((config_folder() / "experiment").glob("*.yaml"))
NAMES = [file.stem for file in FILES]
IMAGES = {
    *("convnext_food", "digits_pretrain", "digits_transfer", "dinov2_cifar100_probe", "mobilenet_hymenoptera"),
    *("quickstart_image", "resnet50_cifar10", "resnet50_pets", "vit_flowers"),
}  # made small in test_image_experiments.py
TEXTS = [name for name in NAMES if name not in IMAGES]
CLASS = {"accuracy", "f1", "precision", "recall", "mcc", "auroc", "ece", "loss"}
METRICS = {
    "MultiClass": CLASS,
    "MultiLabel": CLASS - {"mcc", "ece"},
    "Regression": {"mse", "mae", "pearson", "spearman", "loss"},
}
SIGNED = {"mcc", "pearson", "spearman"}
UNBOUNDED = {"mse", "mae", "loss"}
Compose = Callable[..., dict[str, Any]]
RunSmall = Callable[..., Path]
Words = Callable[[str], list[str]]


def test_there_are_experiments() -> None:
    assert {"quickstart", "bert_sst2"} <= set(NAMES)
    assert list(experiments()) == NAMES


@pytest.mark.parametrize("file", FILES, ids=NAMES)
def test_header(file: Path) -> None:
    assert len(experiments()[file.stem]) > 20
    header = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert f"#   python -m tl_lightning +experiment={file.stem}" in header
    assert any(line.startswith("# Expected: ") for line in header)


@pytest.mark.parametrize("name", NAMES)
def test_composes_and_passes_the_check(name: str, compose: Compose) -> None:
    # The weights of the job before are known only while Hydra runs it.
    job = ["experiment/quickstart_image=scratch"] if name == "quickstart_image" else []
    config = compose(f"experiment={name}", *job)
    check(config)
    assert config["name"] == name


@pytest.fixture
def words(tiny: Callable[[str], Path]) -> Words:
    """An experiment with nothing changed but its size, and the weights of the one that needs no hub."""

    def words(name: str) -> list[str]:
        changes = {
            "quickstart": [f"backbone.name={tiny('bert')}", "backbone.sha256=null", "data.train_fraction=0.1"],
            "bert_sst2": ["data.val_fraction=0.25"],
            "distilbert_sst2": ["data.val_fraction=0.25"],
            "gpt2_sst2": ["data.val_fraction=0.25"],
            "few_labels": ["data.val_fraction=0.25", "data.shots=4", "trainer.check_val_every_n_epoch=1"],
            "ulmfit_style": ["data.val_fraction=0.25", "trainer.max_epochs=2", "strategy.epochs_per_group=0.3"],
        }
        # The tiny models read 64 tokens.
        return [f"experiment={name}", "data.max_length=64", *changes.get(name, [])]

    return words


# With 24 comments for 28 emotions some stand in no comment.
@pytest.mark.parametrize("name", TEXTS)
def test_runs(name: str, hub: Hub, words: Words, run_small: RunSmall) -> None:
    folder = run_small(*words(name))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    rises = "cut_frac" if config["schedule"]["_target_"].endswith("slanted_triangular") else "warmup"
    assert config["schedule"][rises] == 0.1, "what was left to the defaults is said too"
    record = json.loads((folder / "run.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())
    objective = config["objective"]["_target_"].rpartition(".")[2]
    _check_record(record, name, metrics, config["trainer"]["max_epochs"])
    assert record["backbone"]["revision"] == (None if name == "quickstart" else COMMIT)
    assert set(metrics) == {f"{stage}/{metric}" for stage in ("val", "test") for metric in METRICS[objective]}
    for metric, value in metrics.items():
        low, high = _range(metric.partition("/")[2])
        assert low <= value <= high, f"{metric} is {value}"
    _check_curves(folder / "metrics.csv", metrics, record["best"]["epoch"])
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    _check_predictions(table, record, metrics, objective)
    kept = {"best", *(name for name, node in config["callbacks"].items() if node is not None and name == "last")}
    _check_checkpoints(folder / "checkpoints", kept, [key[2:] for key in table if key.startswith("p_")])


def _range(metric: str) -> tuple[float, float]:
    return (-1 if metric in SIGNED else 0), (math.inf if metric in UNBOUNDED else 1)


def _check_record(record: dict[str, Any], name: str, metrics: dict[str, float], epochs: int) -> None:
    assert (record["status"], record["name"], record["seed"]) == ("finished", name, 0)
    assert record["metrics"] == metrics
    assert len(record["data"]["fingerprint"]) == 16
    assert {"torch", "lightning", "transformers", "datasets", "tl_lightning"} <= set(record["versions"])
    assert 0 < record["parameters"]["trained"] == record["parameters"]["all"]
    assert record["durations"]["fit"] > 0
    assert record["samples_per_second"] > 0
    assert 0 <= record["best"]["epoch"] < epochs
    if name != "quickstart":
        assert record["data"]["revision"] == COMMIT
    for metric, (low, high) in record["intervals"].items():
        assert metric in metrics
        assert low <= high or math.isnan(low)


def _check_curves(path: Path, metrics: dict[str, float], best: int) -> None:
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if not row["name"].startswith("val/") or int(row["epoch"]) == best]
    last = {row["name"]: float(row["value"]) for row in rows}
    assert "train/loss" in last
    assert {name: last[name] for name in metrics} == pytest.approx(metrics, abs=1e-5)


def _check_predictions(
    table: dict[str, list[Any]], record: dict[str, Any], metrics: dict[str, float], objective: str
) -> None:
    assert table["id"] == list(range(record["data"]["rows"]["test"]))
    assert sum(table["loss"]) / len(table["loss"]) == pytest.approx(metrics["test/loss"], abs=1e-4)
    pairs = list(zip(table["target"], table["prediction"], strict=True))
    scores = [table[name] for name in table if name.startswith("p_")]
    if objective == "Regression":
        assert not scores
        mean = sum((target - predicted) ** 2 for target, predicted in pairs) / len(pairs)
        assert mean == pytest.approx(metrics["test/mse"], abs=1e-3)
        return
    right = sum(target == predicted for target, predicted in pairs) / len(pairs)
    assert right == pytest.approx(metrics["test/accuracy"], abs=1e-6)
    if objective == "MultiClass":
        assert [sum(row) for row in zip(*scores, strict=True)] == pytest.approx([1.0] * len(pairs), abs=1e-5)


def _check_checkpoints(folder: Path, kept: set[str], classes: list[str]) -> None:
    assert {path.name for path in folder.iterdir()} == {f"{name}.ckpt" for name in kept}
    for path in folder.iterdir():
        stored = torch.load(path, weights_only=True)
        assert stored["tl_lightning"]["classes"] == classes
        assert any(key.startswith("backbone.") for key in stored["state_dict"])


def test_stored_configuration_composes_to_itself(
    tmp_path: Path,
    hub: Hub,
    words: Words,
    run_small: RunSmall,
    command_line: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    folder = run_small(*words("roberta_base_mrpc"), "seed=3", "optimizer.lr=3e-5")
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert (stored["seed"], stored["optimizer"]["lr"]) == (3, 3e-5)
    again = command_line("--config-path", str(folder), "--config-name", "config", "--cfg", "job")
    assert again.returncode == 0, again.stderr
    del stored["defaults"]
    assert yaml.safe_load(again.stdout) == stored


def test_targets_are_those_of_the_source(hub: Hub, words: Words, run_small: RunSmall) -> None:
    folder = run_small(*words("roberta_base_mrpc"))
    (source,) = (hub.folder / "datasets/nyu-mll/glue/mrpc").glob("validation-*")
    labels = pq.read_table(source)["label"].to_pylist()
    table = pq.read_table(folder / "predictions.parquet").to_pydict()
    assert table["target"] == [["not_equivalent", "equivalent"][label] for label in labels]
    scores = zip(table["p_not_equivalent"], table["p_equivalent"], strict=True)
    assert table["prediction"] == ["equivalent" if yes > no else "not_equivalent" for no, yes in scores]
