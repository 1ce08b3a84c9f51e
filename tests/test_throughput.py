"""What a training says of its speed: against counts by hand, and against a clock that the test moves."""

import csv
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tl_lightning.backbones.base import Backbone
from tl_lightning.data import Batch
from tl_lightning.data.loading import ExactLoader
from tl_lightning.flops import forward_flops, multiplied, passes, peak_flops
from tl_lightning.throughput import CLOCKED, Throughput

RunSmall = Callable[..., Path]
WORDS = ("backbone=hf_text", "data=text_files", "trainer.max_epochs=2", "trainer.precision=32-true")


class Net(Backbone):
    """Looks up and multiplies: 3 layers of 4 x 4 weights over an embedding of 10 x 4."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, **inputs: Tensor) -> Tensor:
        hidden = self.embed(inputs["input_ids"]).mean(1)
        for layer in self.layers:
            hidden = layer(hidden)
        return self.drop(self.norm(hidden))  # type: ignore[no-any-return]


def _task(net: Net) -> Any:
    named = dict(net.named_parameters())
    layers = [[("embed", named["embed.weight"])], *([(f"{i}", layer.weight)] for i, layer in enumerate(net.layers))]
    head = nn.Linear(4, 2, bias=False)
    return SimpleNamespace(backbone=net, layers=lambda: [*layers, list(head.named_parameters())])


def test_a_forward_pass_is_counted_and_leaves_no_trace() -> None:
    net = Net()
    net.layers[0].eval()
    before, state = [m.training for m in net.modules()], {n: t.clone() for n, t in net.state_dict().items()}
    assert forward_flops(net, {"input_ids": torch.zeros(5, 7, dtype=torch.int64)}) == 2 * 5 * 3 * 16
    assert [m.training for m in net.modules()] == before
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_step_is_three_passes_and_a_probe_one() -> None:
    task = _task(Net())
    assert multiplied(task) == 3 * 16 + 8
    assert passes(task) == 3
    weights, head = 40 + 3 * 16 + 8, 8
    for parameter in task.backbone.parameters():
        parameter.requires_grad_(False)
    assert passes(task) == pytest.approx(1 + 2 * head / weights)
    task.backbone.layers[1].weight.requires_grad_(True)  # gradients flow down to it, and stop there
    assert passes(task) == pytest.approx(1 + (2 * 16 + 8 + 16 + 8) / weights)


@pytest.mark.parametrize(
    ("device", "precision", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16-mixed", 989e12),
        ("NVIDIA H100 PCIe", "bf16-mixed", 756e12),
        ("NVIDIA A100-SXM4-40GB", "32-true", 156e12),
        ("NVIDIA A100-SXM4-40GB", "64-true", None),
        ("NVIDIA L40S", "16-mixed", 362e12),
        ("NVIDIA L4", "16-mixed", 121e12),
        ("Some Other GPU", "bf16-mixed", None),
    ],
)
def test_the_peak_of_a_device(device: str, precision: str, peak: float | None) -> None:
    assert peak_flops(device, precision) == peak


class Slow(torch.utils.data.Dataset[Batch]):
    """Each batch moves the clock by what it costs."""

    epoch = 0

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def __getitem__(self, positions: list[int]) -> Batch:
        self.clock[0] += 0.25
        return Batch({"input_ids": torch.ones(2, 3)}, torch.zeros(2), torch.zeros(2))


def _loader(clock: list[float], batches: int) -> ExactLoader:
    from tl_lightning.data.batching import BucketBatchSampler
    from tl_lightning.data.loading import exact_loader

    lengths = torch.arange(1, 2 * batches + 1).numpy()
    return exact_loader(Slow(clock), BucketBatchSampler(lengths, 2, seed=0), num_workers=0, pin_memory=False)  # type: ignore[arg-type]


def test_time_tokens_and_waiting_are_counted_and_validation_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    loader, seen = _loader(clock, 8), Throughput()
    logged: dict[str, float] = {}
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
        state=SimpleNamespace(fn="fit"), sanity_checking=False, world_size=1, precision="32-true",
        train_dataloader=loader,
    )  # fmt: skip
    task = _task(Net())
    task.log_dict = logged.update
    seen.on_train_start(trainer, task)
    clock[0] += 50  # before the epoch
    seen.on_train_epoch_start(trainer, task)
    for number, batch in enumerate(loader):
        seen.on_train_batch_start(trainer, task, batch, number)
        clock[0] += 0.75 if number else 8.75
        seen.on_train_batch_end(trainer, task, None, batch, number)
        if number == 3:
            seen.on_validation_start(trainer, task)
            clock[0] += 100
            seen.on_validation_end(trainer, task)
    seen.on_validation_start(trainer, task)
    clock[0] += 100
    seen.on_validation_end(trainer, task)
    seen.on_train_epoch_end(trainer, task)
    assert seen.seconds == 8 * 1.0 + 8
    assert seen.samples == 16
    assert seen.tokens == sum(range(1, 17))
    facts = seen.facts()
    assert facts["data_wait"] == 8 * 0.25 / 16
    assert facts["step_p50"] == facts["step_p95"] == 1.0, "no step spans a validation"
    assert facts["tokens_per_second"] == 136 / 16
    assert facts["flops_per_second"] == pytest.approx(6 * (3 * 16 + 8) * 136 / 16)
    assert facts["mfu"] is None
    assert seen.record()["padding"] == round(loader.sampler.padding().waste, 4)  # type: ignore[attr-defined]
    assert logged.keys() == {f"train/{name}" for name in CLOCKED if name != "mfu"} | {"train/padding"}


def test_a_run_says_how_fast_it_was(tiny: Callable[[str], Path], tmp_path: Path, run_small: RunSmall) -> None:
    rows = [f"{'good fine' if i % 2 else 'bad dull'}{' very' * (i % 7)} film,{i % 2}" for i in range(96)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    folder = run_small(
        *WORDS, f"backbone.name={tiny('bert')}", f"data.train={tmp_path / 'all.csv'}", "data.max_tokens=64"
    )
    record = json.loads((folder / "run.json").read_text())
    found = record["throughput"]
    assert found["samples_per_second"] > 0
    assert found["tokens_per_second"] > found["samples_per_second"]
    assert 0 < found["data_wait"] < 1
    assert 0 < found["step_p50"] <= found["step_p95"]
    assert found["steps"] == record["steps"] - 2, "the first one of each epoch has nothing to count from"
    assert 1 <= found["padding"] < 2
    assert record["steps"] == 2 * record["data"]["batches"]
    with (folder / "metrics.csv").open() as file:
        names = {row["name"] for row in csv.DictReader(file)}
    assert {f"train/{name}" for name in CLOCKED if name != "mfu"} | {"train/padding"} <= names


def test_what_one_of_several_processes_does_not_know_is_not_logged() -> None:
    """The other one knows the peak of its device: both send as many numbers, and neither logs a share of it."""
    sent: list[torch.Tensor] = []

    def reduce(values: torch.Tensor, reduce_op: str) -> torch.Tensor:
        assert reduce_op == "mean"
        sent.append(values)
        return (values + other) / 2

    strategy = SimpleNamespace(root_device=torch.device("cpu"), reduce=reduce)
    trainer: Any = SimpleNamespace(strategy=strategy, world_size=2, train_dataloader=None)
    seen, logged = Throughput(), dict[str, float]()
    seen.samples, seen.seconds = 80, 2.0
    other = torch.tensor([20.0, math.nan, 0.5, math.nan, math.nan, math.nan, 0.3, math.nan], dtype=torch.float64)
    seen.on_train_epoch_end(trainer, SimpleNamespace(log_dict=logged.update))  # type: ignore[arg-type]
    assert [len(values) for values in sent] == [len(other)]
    assert logged == {"train/samples_per_second": 30, "train/data_wait": 0.25}
