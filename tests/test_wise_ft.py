"""The curve between the pretrained and the fine-tuned weights of a finished run, through the command line."""

import csv
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.test_hostile import Payload
from tl_lightning.__main__ import main
from tl_lightning.build import make
from tl_lightning.check import check
from tl_lightning.checkpoints import AsideCheckpointIO
from tl_lightning.errors import UserError
from tl_lightning.record import RECORD, read_record, write_json
from tl_lightning.run import run
from tl_lightning.strategies import FineTuning
from tl_lightning.studies import wise_ft
from tl_lightning.studies.wise_ft import Point, between, chosen, curve
from tl_lightning.task import Predictions, TransferTask

Compose = Callable[..., dict[str, Any]]
NONE = Predictions(*[torch.zeros(0)] * 4)


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_lightning import bootstrap

    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)


@pytest.fixture(scope="module")
def make_run(
    tiny: Callable[[str], Path], compose: Compose, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """A finished run of these words."""

    def make_run(*words: str) -> Path:
        folder = tmp_path_factory.mktemp("runs")
        rows = [f"{'good' if i % 2 else 'bad'} film {'very ' * (i % 5)},{'pos' if i % 3 else 'neg'}" for i in range(60)]
        (folder / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
        config = compose(
            "backbone=hf_text",
            f"backbone.name={tiny('bert')}",
            "data=text_files",
            f"data.train={folder / 'all.csv'}",
            "data.val_fraction=0.2",
            "data.test_fraction=0.2",
            "optimizer.lr=1e-3",
            "trainer=cpu",
            "trainer.precision=32-true",
            "trainer.max_epochs=2",
            "trainer.enable_progress_bar=false",
            "logger=csv",
            *words,
        )
        run(check(config), folder / "run")
        return folder / "run"

    return make_run


@pytest.fixture(scope="module")
def finished_run(make_run: Callable[..., Path]) -> Path:
    return make_run("average=ema", "regularizer=l2_sp", "objective.monitor=loss")


@pytest.fixture
def copy(finished_run: Path, tmp_path: Path) -> Path:
    """One to break."""
    return Path(shutil.copytree(finished_run, tmp_path / "copy"))


def _type(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["tl_lightning", "wise_ft", *words])
    main()


def test_the_command_leaves_a_curve_whose_ends_are_known(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished_run.rglob("*") if path.is_file()}
    _type(monkeypatch, f"run={finished_run}", "alphas=3")
    new = {path.name for path in finished_run.rglob("*") if path.is_file() and path not in before}
    assert new == {"wise_ft.json", "wise_ft.csv", "wise_ft.png"}
    assert all(path.stat().st_mtime_ns == then for path, then in before.items()), "the rest is only read"
    found = json.loads((finished_run / "wise_ft.json").read_text())
    recorded = json.loads((finished_run / "metrics.json").read_text())
    assert [point["alpha"] for point in found["points"]] == [0.0, 0.5, 1.0]
    assert found["fine_tuned"] == pytest.approx(recorded), "alpha 1 is the run itself"
    assert {name: value for name, value in found["points"][2].items() if name != "alpha"} == found["fine_tuned"]
    losses = [point["val/loss"] for point in found["points"]]
    assert len(set(losses)) == 3
    assert found["alpha"] == [0.0, 0.5, 1.0][losses.index(min(losses))]
    assert found["selected_by"] == "val/loss"
    with (finished_run / "wise_ft.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["test/loss"]) for row in rows] == [point["test/loss"] for point in found["points"]]
    assert (finished_run / "wise_ft.png").read_bytes().startswith(b"\x89PNG")
    told = capsys.readouterr().out
    assert "chosen on val" in told
    assert "the head is the fine-tuned one at every alpha" in told


def test_alpha_0_is_the_pretrained_backbone_under_the_fine_tuned_head(finished_run: Path) -> None:
    config, state = (
        yaml.safe_load((finished_run / "config.yaml").read_text()),
        torch.load(finished_run / "checkpoints/best.ckpt", weights_only=True)["state_dict"],
    )
    task, points = curve(finished_run, 2)
    backbone = make(config["backbone"]).eval()
    inputs = {"input_ids": torch.tensor([[2, 7, 9, 3]]), "attention_mask": torch.ones(1, 4, dtype=torch.long)}
    trained = {name: value.clone() for name, value in task.backbone.state_dict().items()}
    assert all(torch.equal(state[f"backbone.{name}"], value) for name, value in trained.items()), "it ends at alpha 1"
    task.backbone.load_state_dict(between(backbone.state_dict(), trained, 0.0))
    task.eval()
    assert torch.equal(task.backbone(**inputs), backbone(**inputs))
    assert all(torch.equal(state[f"head.{name}"], value) for name, value in task.head.state_dict().items())
    assert points[0].metrics["test/loss"] != points[1].metrics["test/loss"]


def test_the_line_between_two_states() -> None:
    begin, end = ({"w": torch.tensor([w, 3.0]), "n": torch.tensor(n)} for w, n in ((1.0, 4), (2.0, 9)))
    assert between(begin, end, 0.25)["w"].tolist() == [1.25, 3.0]
    assert between(begin, end, 0.25)["n"].item() == 9
    for alpha, wanted in ((0.0, begin), (1.0, end)):
        assert torch.equal(between(begin, end, alpha)["w"], wanted["w"])


@pytest.mark.parametrize(
    ("monitor", "values", "alpha"),
    [
        ("accuracy", [0.1, 0.9, 0.5], 0.5),
        ("loss", [0.1, 0.9, 0.5], 0.0),
        ("accuracy", [0.9, 0.9, 0.5], 0.5),
        ("accuracy", [float("nan"), 0.9, float("nan")], 0.5),
        ("accuracy", [float("nan")] * 3, 1.0),
    ],
)
def test_alpha_is_chosen_on_val_towards_the_fine_tuned(monitor: str, values: list[float], alpha: float) -> None:
    points = [
        Point(at, {f"val/{monitor}": value, f"test/{monitor}": -value}, NONE)
        for at, value in zip((0.0, 0.5, 1.0), values, strict=True)
    ]
    assert chosen(points, monitor).alpha == alpha


def test_adapters_are_merged_first(make_run: Callable[..., Path]) -> None:
    folder = make_run("strategy=lora", "objective.monitor=loss")
    _, points = curve(folder, 3)
    recorded = json.loads((folder / "metrics.json").read_text())
    assert points[2].metrics == pytest.approx(recorded, abs=1e-5)
    parts = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)["state_dict"]
    assert not [name for name in parts if "base_layer" in name], "a checkpoint of the parts alone"
    assert len({point.metrics["val/loss"] for point in points}) == 3


# --- what is refused


class Adapting(FineTuning):
    """Adds a part to the backbone, which itself stays."""

    def edit(self, task: TransferTask) -> None:
        task.backbone.requires_grad_(False)
        task.backbone.model.embeddings.extra = torch.nn.Linear(2, 2)  # type: ignore[union-attr]

    def keeps(self, name: str) -> bool:
        return name.startswith("head.") or "extra" in name


def test_words_that_mean_nothing() -> None:
    for words, message in (
        ([], "run=DIR"),
        (["here"], "run=DIR"),
        (["run=x", "alphas=1"], "alphas=1: at least 2"),
        (["run=x", "alphas=many"], "alphas=many: a number"),
        (["run=x", "alpha=3"], "did you mean alphas"),
    ):
        with pytest.raises(UserError, match=message):
            wise_ft.main(words)


def test_no_run_an_unfinished_one_and_one_without_weights(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no run directory"):
        wise_ft.main([f"run={tmp_path / 'nosuch'}"])
    (copy / "checkpoints/best.ckpt").unlink()
    with pytest.raises(UserError, match=r"has no checkpoints/best\.ckpt"):
        wise_ft.main([f"run={copy}"])
    write_json(copy / RECORD, {**read_record(copy), "status": "interrupted"})
    with pytest.raises(UserError, match=f"this run is interrupted; its own command with resume={copy}"):
        wise_ft.main([f"run={copy}"])


def test_data_that_have_changed(copy: Path) -> None:
    record = read_record(copy)
    write_json(copy / RECORD, {**record, "data": {**record["data"], "fingerprint": "another"}})
    with pytest.raises(UserError, match="the data have changed since this run: fingerprint another then"):
        wise_ft.main([f"run={copy}"])


def test_a_configuration_that_someone_has_edited_is_checked(copy: Path) -> None:
    text = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(text.replace("tl_lightning.backbones.HFText", "os.system"))
    with pytest.raises(UserError, match=r"os\.system is outside what a configuration may call"):
        wise_ft.main([f"run={copy}"])


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("backbone.pretrained=false", r"began with fresh weights \(backbone\.pretrained=false\)"),
        ("strategy=linear_probe", "LinearProbe left the backbone as pretrained"),
        (
            "strategy._target_=tests.test_wise_ft.Adapting",
            "trained with Adapting, which adds parts that cannot be merged",
        ),
    ],
)
def test_runs_without_two_ends(
    word: str, message: str, make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TL_LIGHTNING_ALLOW", "tests")
    folder = make_run(word)
    with pytest.raises(UserError, match=message):
        wise_ft.main([f"run={folder}"])


def test_a_commit_on_the_hub_is_the_one_of_the_run(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tl_lightning import finished

    record = read_record(copy)
    write_json(copy / RECORD, {**record, "backbone": {**record["backbone"], "revision": "c0ffee"}})
    seen: list[Any] = []

    def learner(config: dict[str, Any]) -> Any:
        seen.append(config["backbone"]["revision"])
        raise UserError("seen")

    monkeypatch.setattr(finished, "learner", learner)
    with pytest.raises(UserError, match="seen"):
        wise_ft.main([f"run={copy}"])
    assert seen == ["c0ffee"]


def _turned(path: Path) -> None:
    """One bit in the middle, which torch does not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _changed(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def changed(path: Path) -> None:
        content = torch.load(path, weights_only=True)
        change(content)
        AsideCheckpointIO().save_checkpoint(content, path)

    return changed


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    outside = path.parents[2] / "w"
    path.rename(outside)
    path.symlink_to(outside)


WEIGHTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "damaged": (_turned, "is damaged \\(its checksum differs\\): it is not used"),
    "payload": (_changed(lambda c: c.update(evil=Payload(Path("ran")))), "more than tensors and plain values"),
    "without weights": (_changed(lambda c: c.pop("state_dict")), "it holds no state_dict"),
    "numbers": (_changed(lambda c: c["state_dict"].update(w=1.0)), "its state_dict is not names to tensors"),
    "other names": (
        _changed(lambda c: c["state_dict"].update(w=torch.zeros(1))),
        r"does not fit TransferTask: 1 keys unexp",
    ),
    "other shapes": (
        _changed(lambda c: c["state_dict"].update(dict.fromkeys(c["state_dict"], torch.zeros(1)))),
        r"does not fit TransferTask: \d+ keys of another shape",
    ),
    "pipe": (_pipe, "neither a file nor a folder"),
    "link out": (_link_out, "leads out"),
}


@pytest.mark.parametrize("how", WEIGHTS)
def test_weights_that_are_not_the_run_s(how: str, copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(copy)
    (copy / "wise_ft.json").unlink(missing_ok=True)  # of another test
    change, message = WEIGHTS[how]
    change(copy / "checkpoints/best.ckpt")
    with pytest.raises(SystemExit) as ended:
        _type(monkeypatch, f"run={copy}", "alphas=2")
    said = capsys.readouterr().err
    assert ended.value.code == 2, said
    assert re.search(message, said), said
    assert "Traceback" not in said
    assert not (copy / "ran").exists()
    assert not (copy / "wise_ft.json").exists()
