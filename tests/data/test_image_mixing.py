"""Mixed images have soft targets, which the objectives take."""

import pytest
import torch
from torch.nn import functional as F

from tl_lightning.data import Batch
from tl_lightning.data.image_mixing import Mixer
from tl_lightning.objectives import MultiClass, MultiLabel


def _batch(target: torch.Tensor) -> Batch:
    size = len(target)
    pixels = torch.arange(size, dtype=torch.uint8)[:, None, None, None].expand(size, 3, 8, 8) * 20
    return Batch({"pixels": pixels}, target, torch.arange(size))


@pytest.mark.parametrize("seed", range(5))
def test_mixup_mixes_images_and_classes_by_the_same_share(seed: int) -> None:
    torch.manual_seed(seed)
    batch = _batch(torch.tensor([0, 1, 2, 3]))
    mixed = Mixer(0.5, 0.0, 4)(batch)
    assert mixed.inputs["pixels"].dtype == mixed.target.dtype == torch.float32
    assert mixed.target.sum(1).tolist() == pytest.approx([1.0] * 4)
    assert mixed.index.tolist() == [0, 1, 2, 3]
    for at in range(4):
        share = mixed.target[at, at].item()
        assert mixed.target[at, at - 1].item() == pytest.approx(1 - share, abs=1e-6)
        expected = share * 20 * at + (1 - share) * 20 * ((at - 1) % 4)
        assert torch.allclose(mixed.inputs["pixels"][at], torch.tensor(expected), atol=1e-4)
    assert batch.inputs["pixels"].dtype == torch.uint8


@pytest.mark.parametrize("seed", range(5))
def test_cutmix_pastes_as_much_as_the_target_says(seed: int) -> None:
    torch.manual_seed(seed)
    mixed = Mixer(0.0, 1.0, 4)(_batch(torch.tensor([0, 1, 2, 3])))
    for at in range(4):
        own = (mixed.inputs["pixels"][at, 0] == 20 * at).float().mean().item()
        assert mixed.target[at, at].item() == pytest.approx(own, abs=1e-6)
    assert mixed.target.sum(1).tolist() == pytest.approx([1.0] * 4)


def test_both_are_taken_in_turn_by_chance() -> None:
    torch.manual_seed(0)
    mixer, batch = Mixer(0.5, 0.5, 4), _batch(torch.tensor([0, 1, 2, 3]))
    one = [mixer(batch).inputs["pixels"][1] for _ in range(60)]
    flat = [bool((pixels == pixels[0, 0, 0]).all()) for pixels in one]
    assert 15 < sum(flat) < 50


def test_sets_of_labels_are_mixed() -> None:
    torch.manual_seed(0)
    hot = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    mixed = Mixer(0.5, 0.0, 3)(_batch(hot)).target
    share = mixed[0, 0].item()
    assert mixed[0].tolist() == pytest.approx([share, share, 1 - share], abs=1e-6)
    losses = MultiLabel().losses(torch.randn(2, 3), mixed)
    assert losses.shape == (2,)
    assert losses.isfinite().all()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_a_mixture_is_the_mixture_of_losses(smoothing: float) -> None:
    objective = MultiClass(label_smoothing=smoothing)
    outputs, first, second = torch.randn(6, 4), torch.randint(4, (6,)), torch.randint(4, (6,))
    soft = 0.3 * F.one_hot(first, 4).float() + 0.7 * F.one_hot(second, 4).float()
    expected = 0.3 * objective.losses(outputs, first) + 0.7 * objective.losses(outputs, second)
    assert torch.allclose(objective.losses(outputs, soft), expected, atol=1e-6)


def test_a_single_image_stays_itself() -> None:
    mixed = Mixer(0.5, 0.0, 4)(_batch(torch.tensor([2])))
    assert mixed.target.tolist() == [[0, 0, 1, 0]]
