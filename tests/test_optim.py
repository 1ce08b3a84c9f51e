"""Parameter groups and schedules, against tables written by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from tl_lightning.errors import UserError
from tl_lightning.heads import MLP, Linear
from tl_lightning.optim import constant, cosine, linear_warmup, param_groups, slanted_triangular


def _layers() -> list[list[tuple[str, nn.Parameter]]]:
    model = nn.ModuleList([nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)])
    return [list(layer.named_parameters()) for layer in model]


def test_each_trained_parameter_is_in_exactly_one_group() -> None:
    layers = _layers()
    layers[0][0][1].requires_grad_(False)
    grouped = [p for group in param_groups(layers, 1.0, 0.1) for p in group["params"]]
    trained = [p for layer in layers for _, p in layer if p.requires_grad]
    assert sorted(map(id, grouped)) == sorted(map(id, trained))
    assert len(trained) == 5


def test_rates_fall_towards_the_input_and_vectors_do_not_decay() -> None:
    groups = param_groups(_layers(), lr=1.0, weight_decay=0.1, layer_decay=0.5)
    table = [(group["lr"], group["weight_decay"], group["params"][0].ndim) for group in groups]
    assert table == [(0.25, 0.1, 2), (0.25, 0.0, 1), (0.5, 0.0, 1), (1.0, 0.1, 2), (1.0, 0.0, 1)]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (partial(linear_warmup, warmup=0.5), [0.0, 0.5, 1.0, 0.5, 0.0]),
        (partial(linear_warmup, warmup=0.0), [1.0, 0.75, 0.5, 0.25, 0.0]),
        (partial(cosine, warmup=0.0), [1.0, 0.853553, 0.5, 0.146447, 0.0]),
        (partial(cosine, warmup=0.5), [0.0, 0.5, 1.0, 0.5, 0.0]),
        (partial(slanted_triangular, cut_frac=0.5), [1 / 32, 33 / 64, 1.0, 33 / 64, 1 / 32]),
        (partial(slanted_triangular, ratio=4.0), [0.25, 1.0, 0.75, 0.5, 0.25]),
        (partial(constant), [1.0] * 5),
        (partial(constant, warmup=0.5), [0.0, 0.5, 1.0, 1.0, 1.0]),
    ],
)
def test_schedules(schedule: "partial[LRScheduler]", expected: list[float]) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, total_steps=4)
    seen = []
    for _ in range(5):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert seen == pytest.approx(expected, abs=1e-6)


def test_a_warmup_in_steps_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(UserError, match="warmup=100 is a share"):
        linear_warmup(optimizer, total_steps=1000, warmup=100)


@pytest.mark.parametrize("head", [Linear, MLP])
def test_heads_map_features_to_outputs(head: type[nn.Module]) -> None:
    made = head(8, 3)
    assert made(torch.randn(5, 8)).shape == (5, 3)
    made.eval()
    features = torch.randn(5, 8)
    torch.testing.assert_close(made(features), made(features))
