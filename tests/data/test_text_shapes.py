"""A few lengths to pad to, and a budget of tokens: what batches hold, on every rank, in every epoch, after a resume."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tl_lightning.data import Batch, TextFiles
from tl_lightning.data.batching import BucketBatchSampler, SeededBatchSampler, TokenBatchSampler, fitting_rows
from tl_lightning.data.edges import best_edges
from tl_lightning.data.layout import Layout, meetings
from tl_lightning.errors import UserError

Make = Callable[..., TextFiles]
Write = Callable[[str, Any], Path]
LENGTHS = np.minimum(np.random.default_rng(0).geometric(0.1, 20_011) + 2, 66)
EDGES = best_edges(LENGTHS, 12)
BUDGET = 512


def _rows(batches: Iterable[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def _tokens(max_tokens: int = BUDGET, **options: Any) -> TokenBatchSampler:
    edges = EDGES if options.get("shuffle", True) else None
    return TokenBatchSampler(LENGTHS, max_tokens, edges=edges, **({"seed": 0} | options))


def _by_hand(batch: list[int], rank: int, world: int, shuffle: bool) -> list[int]:
    extra = np.resize(batch, -len(batch) % world)
    return np.concatenate([batch, extra if shuffle else ~extra])[rank::world].tolist()  # type: ignore[no-any-return]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 5), st.booleans(), st.data())
def test_ranks_share_batches_as_if_cut_by_hand(size: int, rows: int, world: int, shuffle: bool, data: Any) -> None:
    rank = data.draw(st.integers(0, world - 1))
    whole = list(SeededBatchSampler(size, rows * world, seed=3, shuffle=shuffle))
    part = SeededBatchSampler(size, rows, seed=3, rank=rank, world_size=world, shuffle=shuffle)
    assert list(part) == [_by_hand(batch, rank, world, shuffle) for batch in whole]
    assert len(part) == len(whole)


def test_a_pool_grows_with_the_epoch_up_to_200_batches() -> None:
    def pools(rows: int) -> int:
        # Within a pool lengths rise; rows of a first pool are sorted before the batches are shuffled.
        return BucketBatchSampler(np.ones(rows, np.int64), 1, seed=0)._pool()

    assert [pools(rows) for rows in (10, 400, 800, 1600, 100_000)] == [50, 50, 100, 200, 200]


@pytest.mark.parametrize("shapes", [1, 4, 12])
def test_edges_pad_as_little_as_their_rows_allow_and_mix_more(shapes: int) -> None:
    edges = best_edges(LENGTHS, shapes)
    plain, few = (BucketBatchSampler(LENGTHS, 32, seed=0, edges=e) for e in (None, edges))
    least = edges[np.searchsorted(edges, LENGTHS)].sum() / LENGTHS.sum()
    assert least <= few.padding().waste < least + 0.01
    assert few.padding().shapes <= shapes + 1, "the last batch of an epoch has fewer rows"
    assert sorted(_rows(few)) == list(range(len(LENGTHS)))

    def mix(sampler: BucketBatchSampler) -> float:
        layouts = []
        for epoch in (0, 1):
            sampler.set_epoch(epoch)
            layouts.append(sampler.layout())
        return meetings(*layouts)

    assert mix(few) < min(mix(plain), 1.1 * shapes + 0.2)


def test_meetings_count_pairs() -> None:
    def layout(*batches: list[int]) -> Layout:
        ends = np.cumsum([len(batch) for batch in batches])
        return Layout(np.asarray(_rows(batches)), np.append([0], ends[:-1]), ends)

    one = layout([0, 1], [2, 3])
    assert meetings(one, one) == pytest.approx(3)  # always, where chance has them meet in one of three epochs
    assert meetings(one, layout([0, 2], [1, 3])) == 0
    assert meetings(layout([0, 1, 2, 3]), one) == pytest.approx(1)


def test_padding_is_laid_out_once_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    laid: list[int] = []
    original = SeededBatchSampler.layout

    def spy(self: SeededBatchSampler) -> Layout:
        laid.append(self.epoch)
        return original(self)

    monkeypatch.setattr(SeededBatchSampler, "layout", spy)
    sampler = BucketBatchSampler(LENGTHS, 32, seed=0)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        batches = list(sampler)
        found = sampler.padding()
        assert found.real.tolist() == [LENGTHS[batch].sum() for batch in batches]
        assert found.widths.tolist() == [LENGTHS[batch].max() for batch in batches]
        assert found.padded.tolist() == [LENGTHS[batch].max() * len(batch) for batch in batches]
    assert laid == [0, 1]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
@pytest.mark.parametrize("shuffle", [True, False])
def test_no_batch_exceeds_its_budget(world: int, shuffle: bool) -> None:
    for rank in range(world):
        sampler = _tokens(rank=rank, world_size=world, shuffle=shuffle)
        for epoch in (0, 1, 2):
            sampler.set_epoch(epoch)
            assert len(list(sampler)) == len(sampler) == len(_tokens(world_size=world, shuffle=shuffle))
            assert sampler.padding().padded.max() <= BUDGET
    assert sampler.padding().padded.mean() > 0.75 * BUDGET


@pytest.mark.parametrize("world", [2, 4])
def test_a_budget_gives_the_same_batches_for_every_world_size(world: int) -> None:
    whole = list(_tokens(world * BUDGET))
    ranks = [list(_tokens(rank=rank, world_size=world)) for rank in range(world)]
    for batch, *parts in zip(whole, *ranks, strict=True):
        assert set(batch) == set(_rows(parts))
        assert len({len(part) for part in parts}) == 1
    assert sorted(_rows(whole)) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("world", [1, 3])
def test_a_budget_counts_every_row_once_in_evaluation(world: int) -> None:
    ranks = [list(_tokens(rank=rank, world_size=world, shuffle=False)) for rank in range(world)]
    assert sorted(row for rank in ranks for row in _rows(rank) if row >= 0) == list(range(len(LENGTHS)))
    first = LENGTHS[[batch[0] for batch in ranks[0]]]
    assert (np.diff(first) <= 0).all()


@given(st.integers(1, 4096), st.integers(1, 512), st.sampled_from([1, 2, 3, 4, 8]))
def test_fitting_rows_fill_a_budget(max_tokens: int, width: int, world: int) -> None:
    if width > max_tokens:
        return
    rows = fitting_rows(max_tokens, width, world)
    own = -(-rows // world)
    assert rows >= world
    assert own * width <= max_tokens
    assert rows % 8 == 0 or rows % world == 0
    unit = int(np.lcm(8, world))
    assert 2 * own * width > max_tokens or own * width > max_tokens - unit * width


def test_what_the_model_gets_is_padded_to_the_edges(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    write("all.csv", reviews)
    plain, few = make("all.csv", batch_size=8), make("all.csv", batch_size=8, shapes=3)
    summary = few.summary
    assert plain.summary["edges"] is None
    assert len(summary["edges"]) == 3
    batches = list(few.train_dataloader())
    assert {batch.inputs["input_ids"].shape[1] for batch in batches} <= set(summary["edges"])
    assert summary["shapes"] <= 4
    assert summary["padding"] == round(_waste(batches), 4) > plain.summary["padding"]
    assert not few.val_dataloader().dataset.edges  # type: ignore[attr-defined]
    same = {int(row): batch for batch in plain.train_dataloader() for row in batch.index}
    for batch in batches:
        for at, row in enumerate(batch.index.tolist()):
            other = same[row]
            assert torch.equal(_real(batch, at), _real(other, other.index.tolist().index(row)))


def _real(batch: Batch, at: int) -> torch.Tensor:
    return batch.inputs["input_ids"][at][batch.inputs["attention_mask"][at].bool()]


def _waste(batches: list[Batch]) -> float:
    masks = [batch.inputs["attention_mask"] for batch in batches]
    return sum(mask.numel() for mask in masks) / sum(int(mask.sum()) for mask in masks)


def test_a_budget_in_tokens_stands_in_the_summary(write: Write, make: Make, reviews: list[dict[str, Any]]) -> None:
    write("all.csv", reviews)
    data = make("all.csv", max_tokens=64)
    batches = list(data.train_dataloader())
    assert all(batch.inputs["input_ids"].numel() <= 64 for batch in batches)
    assert data.summary["batches"] == len(batches)
    assert data.summary["padding"] == round(_waste(batches), 4)
    assert all(batch.inputs["input_ids"].numel() <= 128 for batch in data.val_dataloader())
    assert [len(batch.index) for batch in make("all.csv", max_tokens=64, eval_batch_size=3).val_dataloader()] == [3, 3]


@pytest.mark.parametrize(
    "options", [{"shapes": 4, "batch_size": 5}, {"max_tokens": 64}, {"max_tokens": 64, "shapes": 2}]
)
@pytest.mark.parametrize("taken", [0, 3])
def test_resume_continues_the_straight_run(
    write: Write, make: Make, reviews: list[dict[str, Any]], options: dict[str, Any], taken: int
) -> None:
    write("all.csv", reviews)
    loader = make("all.csv", **options).train_dataloader()
    straight = [[batch.index.tolist() for batch in loader] for _ in range(3)]
    assert len({len(epoch) for epoch in straight}) == 1
    loader = make("all.csv", **options).train_dataloader()
    list(loader)
    passing = iter(loader)
    head = [next(passing).index.tolist() for _ in range(taken)]
    resumed = make("all.csv", **options).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    tail = [batch.index.tolist() for batch in resumed]
    assert head + tail == straight[1]


def test_a_training_takes_as_many_steps_as_a_budget_has_batches(
    write: Write, make: Make, reviews: list[dict[str, Any]]
) -> None:
    from tl_lightning.length import training_length

    write("all.csv", reviews)
    data = make("all.csv", max_tokens=64)
    limits = {"max_epochs": 3, "max_steps": -1, "accumulate_grad_batches": 1, "limit_train_batches": 1.0}
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, datamodule=data, **limits)  # type: ignore[assignment]
    assert data.trainer is not None
    assert training_length(data.trainer).steps == 3 * len(list(data.train_dataloader()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 8}, r"the longest text of train has 16 tokens; type data.max_tokens=16"),
        ({"max_tokens": 0}, r"data.max_tokens=0: it must be at least 1"),
        ({"shapes": 0}, r"data.shapes=0: it must be at least 1"),
    ],
)
def test_a_budget_that_cannot_be(
    write: Write, make: Make, reviews: list[dict[str, Any]], options: dict[str, Any], message: str
) -> None:
    write("all.csv", reviews)
    with pytest.raises(UserError, match=message):
        make("all.csv", **options)
