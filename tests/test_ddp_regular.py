"""Two processes with gloo under regularizers and averages: the same as one with the same global batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import nn

from tests.small import WIDTH, batches, task_of, trainer_of
from tests.test_ddp import EPOCHS, _run, without_dropout  # noqa: F401
from tl_lightning.norms import refresh
from tl_lightning.strategies import FineTuning

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*isinstance.treespec"),
]
Tiny = Callable[[str], Path]
# Mixout and R-Drop draw on each rank: the masks of mixout do not depend on the batch, so they are the same there.
PAIRS = [
    ("l2_sp", "ema", "strategy.regularizer.alpha=0.5"),
    ("sam", "swa", "strategy.regularizer.rho=0.1"),
    ("feature_distill", "greedy_soup", "strategy.regularizer.alpha=2"),
    ("mixout", "soup", "strategy.regularizer.p=0.3"),
]


@pytest.mark.parametrize(("regularizer", "average", "word"), PAIRS)
def test_two_processes_are_one(
    without_dropout: Tiny,  # noqa: F811
    tmp_path: Path,
    regularizer: str,
    average: str,
    word: str,
) -> None:
    words = (f"regularizer={regularizer}", f"average={average}", word, "optimizer.lr=0.05", "objective.monitor=loss")
    one, two = (_run(tmp_path, without_dropout, n, *words) for n in (1, 2))
    for name in ("best", "last"):
        states = [torch.load(run / f"checkpoints/{name}.ckpt", weights_only=True)["state_dict"] for run in (one, two)]
        assert states[0].keys() == states[1].keys()
        for key, tensor in states[0].items():
            torch.testing.assert_close(states[1][key], tensor, atol=2e-5, rtol=2e-4, msg=f"{name} {key}")
    metrics = [json.loads((run / "metrics.json").read_text()) for run in (one, two)]
    assert metrics[1] == pytest.approx(metrics[0], abs=1e-3)
    records = [json.loads((run / "run.json").read_text()) for run in (one, two)]
    assert [record["device"] for record in records] == ["1 x cpu", "2 x cpu"]
    assert _counts(records[0]) == _counts(records[1])
    assert sorted(path.name for path in (two / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def _counts(record: dict[str, Any]) -> list[Any]:
    return [record["average"].get(name) for name in ("method", "updates", "candidates", "ingredients")]


def test_r_drop_runs_on_two_ranks(tmp_path: Path, tiny: Tiny) -> None:
    """Each rank drops its own, so there is no single process to compare with."""
    two = _run(tmp_path, tiny, 2, "regularizer=r_drop", "head.dropout=0.1", "average=ema")
    record = json.loads((two / "run.json").read_text())
    assert (record["status"], record["average"]["updates"]) == ("finished", EPOCHS * 8)
    weights = torch.load(two / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert all(value.isfinite().all() for value in weights.values())


def _measure(rank: int, address: str, found: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    task, trainer = task_of(FineTuning(), "norm"), trainer_of()
    rows = batches(4)[rank::2]
    trainer.strategy.connect(task)
    trainer.fit_loop._data_source.instance = None
    trainer.fit_loop._combined_loader = _Loader(rows)  # type: ignore[assignment]
    refresh(trainer, task, 10)
    norm = next(module for module in task.modules() if isinstance(module, nn.BatchNorm1d))
    torch.save({"mean": norm.running_mean, "var": norm.running_var}, f"{found}/{rank}.pt")
    torch.distributed.destroy_process_group()


class _Loader:
    def __init__(self, rows: list[Any]) -> None:
        self.iterables = rows


def test_both_ranks_have_the_statistics_of_all_batches(tmp_path: Path) -> None:
    address = f"file://{tmp_path / 'rendezvous'}"
    torch.multiprocessing.spawn(_measure, (address, str(tmp_path)), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    task = task_of(FineTuning(), "norm")
    layer: Any = task.backbone.layers[0]  # type: ignore[index]
    hidden = [layer(inputs["x"]) for inputs, _, _ in batches(4)]
    wanted = {"mean": torch.stack([h.mean(0) for h in hidden]).mean(0), "var": torch.stack([h.var(0) for h in hidden])}
    for rank in ranks:
        torch.testing.assert_close(rank["mean"], wanted["mean"].detach())
        torch.testing.assert_close(rank["var"], wanted["var"].mean(0).detach())
        assert rank["mean"].shape == (WIDTH,)
