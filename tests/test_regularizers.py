"""Regularizers: their formulas by hand, what they refuse, and that nothing of them gets into a checkpoint."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, kl_divergence

from tests.small import LR, Dense, batches, descend, fit, same, task_of, trainer_of
from tl_lightning.backbones import HFText
from tl_lightning.check import check
from tl_lightning.config import config_folder
from tl_lightning.errors import UserError
from tl_lightning.objectives import MultiClass, MultiLabel, Objective, Regression
from tl_lightning.strategies import (
    L2SP,
    SAM,
    FeatureDistill,
    FineTuning,
    LinearProbe,
    Mixout,
    RDrop,
    Regularizer,
)
from tl_lightning.strategies.mixout import mixed
from tl_lightning.task import Batch, TransferTask

Compose = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers",
    "ignore:.*isinstance.treespec",
    "ignore:.*in eval mode at the start of training",
)
WORDS = sorted(file.stem for file in (config_folder() / "regularizer").glob("*.yaml"))
KINDS: dict[str, Callable[[], Regularizer]] = {
    "l2_sp": lambda: L2SP(alpha=0.5, beta=0.2),
    "mixout": lambda: Mixout(p=0.5),
    "r_drop": RDrop,
    "sam": SAM,
    "feature_distill": FeatureDistill,
}


def _loss(task: TransferTask, batch: Batch) -> Tensor:
    inputs, target, _ = batch
    return task.objective.losses(task(inputs), target).mean()


# --- the configuration


def test_there_are_five() -> None:
    assert sorted(KINDS) == WORDS


@pytest.mark.parametrize("word", WORDS)
def test_a_word_goes_with_any_strategy_and_is_one_itself(word: str, compose: Compose) -> None:
    alone = check(compose(f"strategy={word}"))["strategy"]
    beside = check(compose("strategy=layer_decay", f"regularizer={word}"))["strategy"]
    assert beside.pop("layer_decay") == 0.9
    assert alone.pop("layer_decay") == 1.0
    assert alone == beside
    full = check(compose(f"strategy={word}"))
    assert check(full) == full
    assert alone["regularizer"]["_target_"].startswith("tl_lightning.strategies.")
    assert "regularizer" not in compose(f"regularizer={word}"), "it stands in the strategy's node alone"


def test_a_group_replaces_what_a_strategy_word_says(compose: Compose) -> None:
    node = check(compose("strategy=l2_sp", "regularizer=mixout", "strategy.regularizer.p=0.3"))["strategy"]
    assert node["regularizer"] == {"_target_": "tl_lightning.strategies.Mixout", "p": 0.3}
    short = check(compose("regularizer=mixout", "regularizer.p=0.3"))["strategy"]
    assert short["regularizer"] == node["regularizer"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("regularizer=l2_sp", "regularizer.alpha=-1"), "strategy.regularizer.alpha=-1: at least 0 is"),
        (("regularizer=mixout", "regularizer.p=1"), "strategy.regularizer.p=1: below 1 is expected (and at least 0)"),
        (("regularizer=sam", "regularizer.rho=0"), "strategy.regularizer.rho=0: above 0"),
        (("regularizer=sam", "regularizer.roh=1"), "strategy.regularizer.roh: SAM takes no roh; did you mean rho?"),
        (("regularizer=feature_distill", "regularizer.distance=l1"), "distance='l1': l2 or cosine is expected"),
    ],
)
def test_planted_faults_are_told(words: tuple[str, ...], message: str, compose: Compose) -> None:
    with pytest.raises(UserError) as caught:
        check(compose(*words))
    assert message in str(caught.value)


# --- formulas


def test_l2_sp_is_the_penalty_of_the_paper() -> None:
    alpha, beta, rows = 0.5, 0.2, batches(4)
    task, by_hand = (task_of(FineTuning(regularizer=L2SP(alpha, beta))) for _ in range(2))
    start = {name: p.detach().clone() for name, p in by_hand.backbone.named_parameters()}

    def gradients(task: TransferTask, batch: Batch) -> None:
        apart = sum(((p - start[name]) ** 2).sum() for name, p in task.backbone.named_parameters())
        head = sum((p**2).sum() for p in task.head.parameters())
        loss: Tensor = _loss(task, batch) + alpha / 2 * apart + beta / 2 * head
        loss.backward()  # type: ignore[no-untyped-call]

    descend(by_hand, rows, gradients)
    fit(task, rows)
    same(task, by_hand)
    without = task_of(FineTuning())
    fit(without, rows)
    with pytest.raises(AssertionError):
        same(task, without)


def test_l2_sp_pulls_once_over_accumulated_batches() -> None:
    rows = batches(4)
    task = task_of(FineTuning(regularizer=L2SP(0.5, 0.2)))
    whole = task_of(FineTuning(regularizer=L2SP(0.5, 0.2)))
    fit(task, rows, accumulate_grad_batches=2)
    pairs = [
        ({"x": torch.cat([a[0]["x"], b[0]["x"]])}, torch.cat([a[1], b[1]]), torch.arange(16))
        for a, b in (rows[:2], rows[2:])
    ]
    fit(whole, pairs)
    same(task, whole)


class TopOnly(FineTuning):
    """The last group alone."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return total - 1


class TopFirst(FineTuning):
    """The last group in epoch 0, all in epoch 1."""

    def frozen_groups(self, epoch: int, total: int) -> int:
        return total - 1 if epoch == 0 else 0


@pytest.mark.parametrize("word", ["l2_sp", "mixout", "feature_distill", "sam"])
def test_under_a_schedule_it_acts_on_what_moves(word: str) -> None:
    rows = batches(3)
    task = task_of(TopOnly(regularizer=KINDS[word]()))
    before = deepcopy(task.backbone.state_dict())
    fit(task, rows, epochs=1)
    after = task.backbone.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"layers.1.2.weight", "layers.1.2.bias"}
    task = task_of(TopFirst(regularizer=KINDS[word]()))
    fit(task, rows, epochs=2)
    after = task.backbone.state_dict()
    assert all(not torch.equal(before[name], after[name]) for name in before)


def test_mixout_is_the_formula_and_the_weight_in_expectation() -> None:
    torch.manual_seed(0)
    weight, start, p = torch.randn(50, 40), torch.randn(50, 40), 0.7
    torch.manual_seed(1)
    drawn = mixed(weight, start, p)
    torch.manual_seed(1)
    keep = torch.empty_like(weight).bernoulli_(1 - p)
    paper = (keep * weight + (1 - keep) * start - p * start) / (1 - p)
    torch.testing.assert_close(drawn, paper)
    assert 0.65 < float((keep == 0).float().mean()) < 0.75
    assert torch.allclose(drawn[keep == 0], start[keep == 0]), "put back"
    mean = torch.stack([mixed(weight, start, p) for _ in range(6000)]).mean(0)
    torch.testing.assert_close(mean, weight, atol=0.35, rtol=0)


def test_mixout_trains_by_the_mixed_matrices() -> None:
    rows = batches(1)
    task = task_of(FineTuning(regularizer=Mixout(p=0.5)))
    fit(task, rows, epochs=3)
    regularizer = task.strategy.regularizer
    assert regularizer is not None
    start = task_of(FineTuning()).backbone
    torch.manual_seed(5)
    loss = regularizer.loss(task, rows[0][0], rows[0][1])
    loss.backward()  # type: ignore[no-untyped-call]
    torch.manual_seed(5)
    by_hand = deepcopy(task.backbone)
    for name, parameter in by_hand.named_parameters():
        if parameter.ndim > 1:
            parameter.data = mixed(parameter.data, dict(start.named_parameters())[name].data, 0.5)
    expected = task.objective.losses(task.head(by_hand(**rows[0][0])), rows[0][1]).mean()
    torch.testing.assert_close(loss, expected)
    assert all(p.grad is not None for p in task.backbone.parameters()), "the gradient reaches the weights themselves"
    task.eval()
    assert torch.equal(task(rows[0][0]), task(rows[0][0])), "outside of training nothing is drawn"


def test_mixout_of_nothing_is_plain_training() -> None:
    rows = batches(4)
    task, plain = task_of(FineTuning(regularizer=Mixout(p=0.0))), task_of(FineTuning())
    fit(task, rows)
    fit(plain, rows)
    same(task, plain)


def test_mixout_leaves_embeddings_alone(tiny: Callable[[str], Path]) -> None:
    regularizer = Mixout()
    task = task_of(FineTuning(regularizer=regularizer), backbone=HFText(str(tiny("bert"))))
    task.strategy.setup(trainer_of(), task, "fit")
    names = set(regularizer._mixed(task))
    assert len(names) == 2 * 6, "query, key, value and three dense layers in each of two"
    assert not [name for name in names if "embed" in name]


def _apart_classes(one: Tensor, other: Tensor) -> Tensor:
    a, b = Categorical(logits=one), Categorical(logits=other)
    return ((kl_divergence(a, b) + kl_divergence(b, a)) / 2).mean()


def _apart_labels(one: Tensor, other: Tensor) -> Tensor:
    a, b = Bernoulli(logits=one), Bernoulli(logits=other)
    return ((kl_divergence(a, b) + kl_divergence(b, a)) / 2).mean()


@pytest.mark.parametrize(
    ("objective", "apart"),
    [
        (MultiClass(), _apart_classes),
        (MultiLabel(), _apart_labels),
        (Regression(), lambda one, other: ((one - other) ** 2).mean()),
    ],
)
def test_r_drop_is_two_losses_and_how_far_they_are_apart(
    objective: Objective, apart: Callable[[Tensor, Tensor], Tensor]
) -> None:
    inputs, target, _ = batches(1, target=objective.target)[0]
    task = task_of(FineTuning(regularizer=RDrop(alpha=0.7)), "dropout", objective).train()
    torch.manual_seed(3)
    loss = task.strategy.loss(task, inputs, target)
    torch.manual_seed(3)
    one, other = task(inputs), task(inputs)
    assert not torch.equal(one, other)
    both = (objective.losses(one, target).mean() + objective.losses(other, target).mean()) / 2
    torch.testing.assert_close(loss, both + 0.7 * apart(one, other))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_sam_is_the_two_steps_of_the_paper(clip: float | None) -> None:
    rho, rows = 0.3, batches(4)
    task, by_hand = (task_of(FineTuning(regularizer=SAM(rho))) for _ in range(2))

    def gradients(task: TransferTask, batch: Batch) -> None:
        _loss(task, batch).backward()  # type: ignore[no-untyped-call]
        parameters = list(task.parameters())
        found = [p.grad.clone() for p in parameters if p.grad is not None]
        norm = torch.cat([g.flatten() for g in found]).norm()
        here = [p.detach().clone() for p in parameters]
        for p, g in zip(parameters, found, strict=True):
            p.data += rho * g / norm
        task.zero_grad()
        _loss(task, batch).backward()  # type: ignore[no-untyped-call]
        for p, value in zip(parameters, here, strict=True):
            p.data = value
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)

    descend(by_hand, rows, gradients)
    fit(task, rows, gradient_clip_val=clip)
    same(task, by_hand)


def test_sam_runs_under_autocast_and_leaves_plain_gradients() -> None:
    task, exact = (task_of(FineTuning(regularizer=SAM(0.3))) for _ in range(2))
    fit(task, batches(4), precision="bf16-mixed", gradient_clip_val=1.0)
    fit(exact, batches(4), gradient_clip_val=1.0)
    same(task, exact, atol=0.02)
    with pytest.raises(AssertionError):
        same(task, exact)
    assert {p.dtype for p in task.parameters()} == {torch.float32}


def test_sam_counts_a_batch_once_in_batchnorm() -> None:
    rows = batches(1)
    task, plain = task_of(FineTuning(regularizer=SAM(0.3)), "norm"), task_of(FineTuning(), "norm")
    fit(task, rows)
    fit(plain, rows)
    one, other = (dict(t.named_buffers()) for t in (task, plain))
    assert [name.rpartition(".")[2] for name in one] == ["running_mean", "running_var", "num_batches_tracked"]
    for name, buffer in one.items():
        torch.testing.assert_close(buffer, other[name])
    norms = [module for module in task.modules() if isinstance(module, nn.BatchNorm1d)]
    assert norms[0].momentum == 0.1


@pytest.mark.parametrize("distance", ["l2", "cosine"])
def test_feature_distill_is_the_distance_to_the_pretrained_features(distance: Any) -> None:
    alpha, rows = 0.8, batches(4)
    task, by_hand = (task_of(FineTuning(regularizer=FeatureDistill(alpha, distance))) for _ in range(2))
    teacher = deepcopy(by_hand.backbone)

    def gradients(task: TransferTask, batch: Batch) -> None:
        one, other = task.backbone(**batch[0]), teacher(**batch[0]).detach()
        cosine = (one * other).sum(-1) / one.norm(dim=-1) / other.norm(dim=-1)
        apart = ((one - other) ** 2).mean() if distance == "l2" else (1 - cosine).mean()
        (_loss(task, batch) + alpha * apart).backward()

    descend(by_hand, rows, gradients)
    fit(task, rows)
    same(task, by_hand)


def test_the_teacher_holds_still_and_is_nobodys_parameter() -> None:
    regularizer = FeatureDistill()
    task = task_of(FineTuning(regularizer=regularizer), "norm")
    before = deepcopy(task.backbone.state_dict())
    names = set(task.state_dict())
    fit(task, batches(4), epochs=2)
    teacher = regularizer._teacher
    assert teacher is not None
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items()), "statistics too"
    assert not any(p.requires_grad for p in teacher.parameters())
    assert not any(module.training for module in teacher.modules())
    assert set(task.state_dict()) == names
    held = {id(p) for p in task.parameters()}
    assert not held & {id(p) for p in teacher.parameters()}


# --- what makes no sense


class NewPartsOnly(FineTuning):
    """Freezes what was there and adds a part that trains, as adapters do."""

    def edit(self, task: TransferTask) -> None:
        task.backbone.requires_grad_(False)
        task.backbone.layers[1].append(nn.Linear(6, 6))  # type: ignore[index, union-attr]

    def _freeze(self, task: TransferTask, frozen: int) -> None:
        task.backbone.layers[1][-1].requires_grad_(True)  # type: ignore[index]


class BiasOnly(FineTuning):
    """No matrix moves."""

    def edit(self, task: TransferTask) -> None:
        for name, parameter in task.backbone.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))


@pytest.mark.parametrize("make", [LinearProbe, NewPartsOnly])
@pytest.mark.parametrize("word", ["l2_sp", "mixout", "feature_distill"])
def test_what_holds_near_the_pretrained_is_refused_where_none_of_it_moves(
    word: str, make: Callable[..., FineTuning]
) -> None:
    with pytest.raises(UserError, match=f"{word} .*under {make.__name__} no pretrained weight moves.*strategy=full"):
        fit(task_of(make(regularizer=KINDS[word]())), batches(1))


@pytest.mark.parametrize("word", ["sam", "r_drop"])
def test_the_others_go_with_a_probe(word: str) -> None:
    task = task_of(LinearProbe(regularizer=KINDS[word]()))
    task.head = nn.Sequential(nn.Dropout(0.1), task.head)
    before = deepcopy(task.state_dict())
    fit(task, batches(2))
    changed = {name for name, value in task.state_dict().items() if not torch.equal(before[name], value)}
    assert changed == {"head.1.weight", "head.1.bias"}


def test_r_drop_without_dropout_is_refused() -> None:
    with pytest.raises(UserError, match=r"nothing that trains here has dropout: head\.dropout=0\.1"):
        fit(task_of(FineTuning(regularizer=RDrop())), batches(1))
    with pytest.raises(UserError, match="nothing that trains here"):
        fit(task_of(LinearProbe(regularizer=RDrop()), "dropout"), batches(1))
    fit(task_of(FineTuning(regularizer=RDrop()), "dropout"), batches(1))


def test_mixout_without_matrices_is_refused() -> None:
    with pytest.raises(UserError, match="mixout acts on matrices, and BiasOnly moves none"):
        fit(task_of(BiasOnly(regularizer=Mixout())), batches(1))


def test_mixout_with_gradient_checkpointing_is_refused(tiny: Callable[[str], Path]) -> None:
    backbone = HFText(str(tiny("bert")), gradient_checkpointing=True)
    task = task_of(FineTuning(regularizer=Mixout()), backbone=backbone)
    with pytest.raises(UserError, match=r"backbone\.gradient_checkpointing=false"):
        task.strategy.setup(trainer_of(), task, "fit")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"accumulate_grad_batches": 2}, r"trainer\.accumulate_grad_batches=2 makes several one step"),
        ({"precision": "16-mixed"}, r"trainer\.precision=16-mixed would not scale"),
    ],
)
def test_sam_refuses_what_it_cannot_be_right_under(settings: dict[str, Any], message: str) -> None:
    task = task_of(FineTuning(regularizer=SAM()))
    trainer = trainer_of(accumulate_grad_batches=settings.get("accumulate_grad_batches", 1))
    if "precision" in settings:  # a scaler needs a GPU here; what is looked at is whether there is one
        trainer.precision_plugin.scaler = object()  # type: ignore[attr-defined]
        trainer.precision_plugin.precision = settings["precision"]
    with pytest.raises(UserError, match=message):
        task.strategy.setup(trainer, task, "fit")


def test_l2_sp_speaks_of_the_other_weight_decay(caplog: pytest.LogCaptureFixture) -> None:
    task = task_of(FineTuning(regularizer=L2SP()))
    task.strategy.setup(trainer_of(), task, "fit")
    assert "l2_sp" not in caplog.text
    task.make_optimizer.keywords["weight_decay"] = 0.01  # type: ignore[attr-defined]
    L2SP().prepare(task, trainer_of())
    assert "optimizer.weight_decay=0 leaves it to l2_sp" in caplog.text


@pytest.mark.parametrize("word", WORDS)
def test_no_module_and_no_entry_is_added(word: str) -> None:
    task, plain = task_of(FineTuning(regularizer=KINDS[word]()), "dropout"), task_of(FineTuning(), "dropout")
    fit(task, batches(2))
    assert task.state_dict().keys() == plain.state_dict().keys()
    assert [type(m) for m in task.modules()] == [type(m) for m in plain.modules()]
    assert isinstance(task.backbone, Dense)
    assert task.trainer.optimizers[0].param_groups[0]["lr"] == LR
