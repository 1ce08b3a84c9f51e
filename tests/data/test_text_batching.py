"""The order of batches, and taking it up again in mid-epoch."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch

from tl_lightning.data import Batch, TextFiles
from tl_lightning.data.batching import BucketBatchSampler, SeededBatchSampler
from tl_lightning.data.loading import ExactLoader
from tl_lightning.errors import UserError

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]
LENGTHS = np.random.default_rng(0).geometric(0.1, 5003) + 2


def _flat(lists: Iterable[list[int]]) -> list[int]:
    return [one for part in lists for one in part]


def _sampler(batch_size: int = 32, **options: Any) -> BucketBatchSampler:
    return BucketBatchSampler(LENGTHS, batch_size, **({"seed": 0} | options))


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once_an_epoch(shuffle: bool) -> None:
    batches = list(_sampler(shuffle=shuffle))
    assert sorted(_flat(batches)) == list(range(5003))
    assert len(batches) == len(_sampler(shuffle=shuffle)) == 157


def test_order_follows_seed_and_epoch() -> None:
    orders = []
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 1)]:
        sampler = _sampler(seed=seed)
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[1] == orders[4]
    assert all(orders[a] != orders[b] for a in range(4) for b in range(a))


@pytest.mark.parametrize("world", [2, 4])
def test_global_batches_do_not_depend_on_the_world_size(world: int) -> None:
    whole = list(_sampler(32))
    ranks = [list(_sampler(32 // world, rank=rank, world_size=world)) for rank in range(world)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert set(batch) == set(_flat(parts))
        assert len({len(part) for part in parts}) == 1
    assert sum(len(part) for rank in ranks for part in rank) == 5003 + -5003 % world


@pytest.mark.parametrize("world", [2, 3])
def test_evaluation_counts_every_row_once_over_all_ranks(world: int) -> None:
    # One row beyond whole batches: without repeats all ranks but one would miss the last batch.
    size = 5002 // world
    ranks = [list(_sampler(size, rank=rank, world_size=world, shuffle=False)) for rank in range(world)]
    assert len({len(rank) for rank in ranks}) == 1
    rows = [row for rank in ranks for batch in rank for row in batch]
    assert sorted(row for row in rows if row >= 0) == list(range(5003))
    assert 0 < sum(row < 0 for row in rows) < world
    assert all(batch for rank in ranks for batch in rank)


def test_evaluation_has_the_longest_first() -> None:
    lengths = LENGTHS[_flat(_sampler(shuffle=False))]
    assert (np.diff(lengths) <= 0).all()


def test_buckets_can_be_turned_off(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    """The control: the same rows in the same number of batches, as a plain shuffle of (seed, epoch) cuts them."""
    mixed = BucketBatchSampler(LENGTHS, 8, seed=3, mixed=True)
    plain = SeededBatchSampler(len(LENGTHS), 8, seed=3)
    for epoch in (0, 1):
        mixed.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert list(mixed) == list(plain)
    assert mixed.padding().waste > 1.2 * BucketBatchSampler(LENGTHS, 8, seed=3).padding().waste
    in_order = BucketBatchSampler(LENGTHS, 8, seed=3, shuffle=False, mixed=True)
    assert np.all(np.diff(LENGTHS[[row for batch in in_order for row in batch]]) <= 0), "evaluation stays as it is"
    write("all.csv", reviews)
    data = make("all.csv", by_length=False)
    assert data.summary["padding"] > make("all.csv").summary["padding"]
    with pytest.raises(UserError, match=r"data\.by_length=false .* data\.shapes"):
        make("all.csv", by_length=False, shapes=4)


@pytest.mark.parametrize("shuffle", [True, False])
def test_padding_is_exact_and_small(shuffle: bool) -> None:
    sampler = _sampler(shuffle=shuffle)
    sizes = [LENGTHS[batch] for batch in sampler]
    assert sampler.padding().waste == pytest.approx(sum(s.max() * len(s) for s in sizes) / LENGTHS.sum())
    assert sampler.padding().waste < 1.15
    unsorted = np.split(LENGTHS[:4992], 156)
    assert sum(s.max() * 32 for s in unsorted) / LENGTHS[:4992].sum() > 2


def test_repeated_rows_have_no_index(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    write("all.csv", reviews)
    dataset = make("all.csv").val_dataloader().dataset
    batch = dataset[[0, 1, ~0]]
    assert batch.index.tolist()[2] == -1
    assert batch.index.tolist()[0] >= 0
    assert torch.equal(batch.inputs["input_ids"][2], batch.inputs["input_ids"][0])


def _loader(write: Write, make: Make, reviews: list[dict[str, Any]], **options: Any) -> ExactLoader:
    write("all.csv", reviews)
    return make("all.csv", **({"batch_size": 5} | options)).train_dataloader()


def _indices(batches: Any) -> list[list[int]]:
    return [batch.index.tolist() for batch in batches]


def test_every_pass_is_another_epoch(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    loader = _loader(write, make, reviews)
    first, second = _indices(loader), _indices(loader)
    assert first != second
    assert sorted(_flat(first)) == sorted(_flat(second))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 3, 10])
def test_resume_continues_the_straight_run(
    write: Write, make: Make, reviews: list[dict[str, Any]], taken: int, workers: int
) -> None:
    loader = _loader(write, make, reviews, num_workers=workers)
    straight = [_indices(loader) for _ in range(3)]
    assert len(straight[0]) == 10
    loader = _loader(write, make, reviews, num_workers=workers)
    _indices(loader)
    passing = iter(loader)
    head = [next(passing).index.tolist() for _ in range(taken)]
    resumed = _loader(write, make, reviews, num_workers=workers)
    resumed.load_state_dict(loader.state_dict())
    assert resumed.state_dict() == loader.state_dict()
    if taken:
        assert head == straight[1][:taken]
    tail = [_indices(resumed), _indices(resumed)]
    assert tail == ([straight[1][taken:], straight[2]] if taken < 10 else [straight[2], tail[1]])


def test_resume_reads_nothing_again(
    write: Write, make: Make, reviews: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = _loader(write, make, reviews)
    loader.load_state_dict({"epoch": 0, "batches": 7})
    read = []
    fetch = type(loader.dataset).__getitem__

    def noting(dataset: Any, positions: list[int]) -> Batch:
        read.append(positions)
        return fetch(dataset, positions)

    monkeypatch.setattr(type(loader.dataset), "__getitem__", noting)
    assert len(_indices(loader)) == len(read) == 3


class Recorder(lightning.LightningModule):
    """Trains one number, and notes the rows of every batch by epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[int, list[int]]] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        self.seen.append((self.current_epoch, batch.index.tolist()))
        return self.weight * batch.target.float().mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        assert batch.inputs["input_ids"].shape[0] == len(batch.index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saver(lightning.Callback):
    """Saves wherever a checkpoint may be taken: in mid-epoch, after validation, at the end of an epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _save(self, trainer: lightning.Trainer, place: str) -> None:
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{place}-{trainer.global_step}.ckpt")

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._save(trainer, "batch")

    def on_validation_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._save(trainer, "epoch")


def _fit(data: TextFiles, limit: float, *, ckpt: Path | None = None, save: Path | None = None) -> Recorder:
    module = Recorder()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=3,
        limit_train_batches=limit,
        callbacks=[] if save is None else [Saver(save)],
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return module


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning under torch 2.15
@pytest.mark.filterwarnings("ignore::lightning.fabric.utilities.warnings.PossibleUserWarning")
@pytest.mark.parametrize("limit", [1.0, 4])
def test_lightning_resumes_exactly(
    write: Write, make: Make, reviews: list[dict[str, Any]], tmp_path: Path, limit: float
) -> None:
    write("all.csv", reviews)
    straight = _fit(make("all.csv", batch_size=8), limit, save=tmp_path).seen
    epochs = [[rows for at, rows in straight if at == epoch] for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2]
    saved = sorted(tmp_path.glob("*.ckpt"))
    assert len(saved) == len(straight) + 3 + 3
    for path in saved:
        done = int(path.stem.split("-")[1])
        resumed = _fit(make("all.csv", batch_size=8), limit, ckpt=path).seen
        assert resumed == straight[done:], path.name


def test_lightning_keeps_the_sampler_under_ddp(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    from types import SimpleNamespace

    from lightning.pytorch.trainer.connectors.data_connector import _DataConnector

    loader = _loader(write, make, reviews)
    trainer = SimpleNamespace(_accelerator_connector=SimpleNamespace(use_distributed_sampler=True, is_distributed=True))
    connector = SimpleNamespace(trainer=trainer)
    assert not _DataConnector._requires_distributed_sampler(connector, loader)  # type: ignore[arg-type]


def test_ranks_come_from_the_trainer(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    from types import SimpleNamespace

    write("all.csv", reviews)
    rows: list[list[int]] = []
    for rank in (0, 1):
        data = make("all.csv", batch_size=4)
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        rows.append(_flat(_indices(data.train_dataloader())))
    assert len(rows[0]) == len(rows[1]) == 24
    assert not set(rows[0]) & set(rows[1])
