"""Many heads at once: each becomes what a run of its own becomes, and val alone chooses."""

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.probing import Runs, metrics, predictions, record, texts, weights
from tests.stopping import StopAt
from tl_lightning import bootstrap
from tl_lightning.errors import UserError
from tl_lightning.finished import finished, rebuilt
from tl_lightning.finite import NotFiniteError
from tl_lightning.grid_task import GridTask
from tl_lightning.head_grid import HeadGrid, scale_steps
from tl_lightning.interrupt import Interrupted
from tl_lightning.run import run

LRS = (1e-3, 0.05, 0.3)
GRID = f"head.lr_grid=[{','.join(map(str, LRS))}]"
CLIP = "trainer.gradient_clip_val=0.05"  # so low that it bites at every step


@pytest.fixture
def probe(
    tiny: Callable[[str], Path], compose: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Runs:
    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.setattr(StopAt, "done", set())
    return Runs(tmp_path, compose, texts(tmp_path, tiny))


def _assert_alone(many: Path, alone: Sequence[tuple[Path, int, int]]) -> None:
    """Each run of ``alone`` ended with the weights of one head: its bank and its place there."""
    grid = weights(many)
    for folder, bank, place in alone:
        own = {name: value for name, value in weights(folder).items() if name.startswith("head.")}
        assert own
        for name, value in own.items():
            head = grid[f"grid.banks.{bank}.{name.removeprefix('head.')}"][place]
            torch.testing.assert_close(head, value, atol=2e-6, rtol=2e-5, msg=f"{folder.name}: {name}")


@pytest.mark.parametrize(
    "words", [("head=mlp",), pytest.param(("head=linear", "optimizer=sgd"), marks=pytest.mark.slow)]
)
def test_each_head_becomes_what_its_run_becomes(probe: Runs, words: tuple[str, ...]) -> None:
    many = probe("many", GRID, CLIP, *words)
    runs = [probe(f"lr {lr}", CLIP, *words, f"optimizer.lr={lr}") for lr in LRS]
    _assert_alone(many, [(folder, 0, place) for place, folder in enumerate(runs)])
    best = [metrics(folder)["val/accuracy"] for folder in runs]
    told = record(many)["head_grid"]
    assert [head["val/accuracy"] for head in told["heads"]] == pytest.approx(best, abs=1e-6)
    assert len(set(best)) > 1, "the rates make a difference"
    chosen = next(at for at, lr in enumerate(LRS) if lr == told["chosen"]["lr"])
    assert best[chosen] == max(best)
    assert metrics(many) == pytest.approx(metrics(runs[chosen]), abs=1e-4)
    assert predictions(many)["prediction"] == predictions(runs[chosen])["prediction"]
    assert record(many)["best"] == record(runs[chosen])["best"]


@pytest.mark.slow
def test_weight_decays_are_crossed_with_rates(probe: Runs) -> None:
    decays = (0.0, 2.0)
    many = probe("many", "head.lr_grid=[0.001,0.1]", f"head.weight_decay_grid={[*decays]}".replace(" ", ""))
    alone = [
        (probe(f"{lr} {decay}", f"optimizer.lr={lr}", f"optimizer.weight_decay={decay}"), bank, place)
        for bank, decay in enumerate(decays)
        for place, lr in enumerate((0.001, 0.1))
    ]
    _assert_alone(many, alone)
    told = record(many)["head_grid"]["heads"]
    assert [(head["lr"], head["weight_decay"]) for head in told] == [(0.001, 0), (0.1, 0), (0.001, 2), (0.1, 2)]


@pytest.mark.slow
def test_a_grid_of_decays_alone_keeps_the_optimizers_rate(probe: Runs) -> None:
    told = record(probe("many", "head.weight_decay_grid=[0,1]", "optimizer.lr=0.02"))["head_grid"]
    assert [(head["lr"], head["weight_decay"]) for head in told["heads"]] == [(0.02, 0), (0.02, 1)]


def test_the_same_without_features_from_the_cache_and_with_parts_of_steps(probe: Runs) -> None:
    words = (GRID, CLIP, "trainer.accumulate_grad_batches=2")
    kept, read = probe("kept", *words), probe("read", *words, "data.cache_features=null")
    one, two = weights(kept), weights(read)
    for name in (name for name in one if name.startswith("grid.banks.")):
        torch.testing.assert_close(two[name], one[name], atol=1e-5, rtol=1e-4, msg=name)
    alone = probe("alone", CLIP, "trainer.accumulate_grad_batches=2", f"optimizer.lr={LRS[1]}")
    _assert_alone(kept, [(alone, 0, 1)])


def test_what_is_left_is_a_plain_model(probe: Runs) -> None:
    folder = probe("many", GRID)
    best = weights(folder, "best")
    assert set(best) == {"head.1.weight", "head.1.bias"}
    told = record(folder)
    config, known = finished(folder)
    task, _ = rebuilt(config, known)
    checkpoint = torch.load(folder / "checkpoints/best.ckpt", weights_only=True)
    task.on_load_checkpoint(checkpoint)
    task.load_state_dict(checkpoint["state_dict"])
    assert torch.equal(dict(task.head.named_parameters())["1.weight"], best["head.1.weight"])
    assert isinstance(task, GridTask)
    assert task.facts()["chosen"] == told["head_grid"]["chosen"]
    assert told["parameters"]["trained"] == best["head.1.weight"].numel() + 2
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "heads/lr=0.05,weight_decay=0.01/accuracy"]
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]


def test_test_has_no_part_in_the_choice(probe: Runs) -> None:
    path = probe.folder / "test.csv"
    one = record(probe("one", GRID))
    path.write_text(path.read_text().replace(",p\n", ",X\n").replace(",n\n", ",p\n").replace(",X\n", ",n\n"))
    two = record(probe("turned", GRID))
    assert one["head_grid"] == two["head_grid"]
    assert one["metrics"]["test/accuracy"] == pytest.approx(1 - two["metrics"]["test/accuracy"])
    assert one["metrics"]["test/accuracy"] != two["metrics"]["test/accuracy"]


def test_the_grid_is_told_at_the_end(probe: Runs, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    probe("many", GRID, "objective.monitor=loss")
    (table,) = (entry.message for entry in caplog.records if "best val/loss" in entry.message)
    assert [line.split()[0] for line in table.splitlines()[1:]] == [f"lr={lr:g},weight_decay=0.01" for lr in LRS]


@pytest.mark.parametrize("place", [("batch_start", 7), pytest.param(("validation", 5), marks=pytest.mark.slow)])
def test_stopped_and_resumed_it_ends_the_same(probe: Runs, place: tuple[str, int]) -> None:
    straight = probe("straight", GRID)
    config = json.loads(json.dumps(probe.config(GRID)))
    config["callbacks"]["here"] = {"_target_": "tests.stopping.StopAt", "places": [list(place)]}
    folder = probe.folder / "stopped"
    with pytest.raises(Interrupted):
        run(config, folder)
    run({**config, "resume": str(folder)}, folder)
    one, two = weights(straight), weights(folder)
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert metrics(straight) == metrics(folder)
    assert record(straight)["head_grid"] == record(folder)["head_grid"]


def test_a_head_that_goes_astray_goes_alone(probe: Runs) -> None:
    words = (
        "optimizer=sgd",
        "trainer.gradient_clip_val=null",
        "head.dropout=0",
        "objective=regression",
        "objective.monitor=mse",
    )
    for split in ("train", "val", "test"):
        path = probe.folder / f"{split}.csv"
        path.write_text(path.read_text().replace(",p\n", ",1.5\n").replace(",n\n", ",-1\n"))
    many = probe("many", "head.lr_grid=[0.001,90]", *words, "trainer.max_epochs=20")
    alone = probe("alone", *words, "optimizer.lr=0.001", "trainer.max_epochs=20")
    _assert_alone(many, [(alone, 0, 0)])
    told = record(many)["head_grid"]
    assert told["chosen"]["lr"] == 0.001
    assert told["heads"][0]["out_at_step"] is None
    assert told["heads"][1]["out_at_step"] > 0
    with pytest.raises(NotFiniteError):
        probe("both", "head.lr_grid=[80,90]", *words, "trainer.max_epochs=20")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("strategy=full",), "FineTuning moves the backbone"),
        (("strategy=lp_ft",), "LPFT moves the backbone.*strategy=linear_probe"),
        (("strategy=lora",), "LoRA moves the backbone"),
        (("regularizer=r_drop",), "regularizer=null"),
        (("average=ema",), "average=null"),
        (("optimizer._target_=torch.optim.Rprop", "optimizer.fused=true"), "optimizer=adamw or sgd"),
        (("schedule._target_=torch.optim.lr_scheduler.OneCycleLR",), "schedule=linear_warmup"),
        (("trainer.precision=16-mixed",), "trainer.precision=bf16-mixed"),
        (("head.lr_grid=[]",), "at least one value"),
        (("head.lr_grid=[0.1,0.1]",), "each once"),
        (("head.lr_grid=[0.1,-1]",), "above 0"),
        (("head.weight_decay_grid=[-1]",), "at least 0"),
        (("head.lr_grid=0.1",), "a list"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(
    probe: Runs, words: tuple[str, ...], told: str
) -> None:
    with pytest.raises(UserError, match=told):
        probe.config(GRID, *words)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW, torch.optim.Adam, torch.optim.RMSprop])
def test_steps_of_any_length_are_those_of_an_optimizer_each(kind: Callable[..., torch.optim.Optimizer]) -> None:
    torch.manual_seed(0)
    head, lrs = nn.Linear(3, 2), (0.5, 0.01, 1e-5)
    grid = HeadGrid(head, lrs, [0.1])
    settings: dict[str, Any] = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    many = kind(grid.groups(head, lambda _, p: p.ndim > 1), **settings)
    scale_steps(many, lrs)
    heads = [nn.Linear(3, 2) for _ in lrs]
    for one in heads:
        one.load_state_dict(head.state_dict())
    alone = [
        kind([{"params": [one.weight], "weight_decay": 0.1}, {"params": [one.bias], "weight_decay": 0.0}],
             lr=lr, **settings)
        for one, lr in zip(heads, lrs, strict=True)
    ]  # fmt: skip
    for _ in range(5):
        x = torch.randn(4, 3)
        grid.outputs(head, x).square().mean(dim=(1, 2)).sum().backward()  # type: ignore[no-untyped-call]
        many.step()
        many.zero_grad()
        for one, optimizer in zip(heads, alone, strict=True):
            one(x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    weight, bias = grid.banks[0].parameters()
    for place, one in enumerate(heads):
        torch.testing.assert_close(weight[place], one.weight)
        torch.testing.assert_close(bias[place], one.bias)


def test_one_loss_that_is_not_finite_spoils_its_own_gradient_alone() -> None:
    head = nn.Linear(2, 1)
    grid = HeadGrid(head, (0.1, 0.2, 0.3), [0.0])
    losses = grid.outputs(head, torch.ones(4, 2)).mean(dim=(1, 2)) * torch.tensor([1.0, math.inf, 2.0])
    value = grid.loss(losses)
    assert value.item() == pytest.approx(losses[[0, 2]].mean().item())
    value.backward()  # type: ignore[no-untyped-call]
    grid.before_step(7, clip=0.5)
    weight, bias = (p.grad for p in grid.banks[0].parameters() if p.grad is not None)
    norms = (weight.flatten(1).square().sum(1) + bias.square().sum(1)).sqrt()
    assert norms.tolist() == pytest.approx([0.5, 0.0, 0.5], abs=1e-5)
    assert grid.out_at.tolist() == [-1, 7, -1]
