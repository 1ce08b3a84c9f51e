"""What chance does to a training image depends on (seed, epoch, row) alone; a resume is exact."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torchvision.transforms import v2

from tests.data.pictures import SPEC, noise, photos
from tl_lightning.callbacks import RandomState
from tl_lightning.data import Batch, ImageFolder
from tl_lightning.data.image_views import Augmentation, Augmented, Plain, seed_of
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec

STRONG: dict[str, Any] = {
    "crop_scale": (0.3, 1.0),
    "auto_augment": "randaugment",
    "random_erasing": 0.5,
}


def _image(height: int, width: int) -> torch.Tensor:
    return torch.from_numpy(noise(0, height, width)).permute(2, 0, 1)


def _folder(tmp_path: Path, **options: Any) -> ImageFolder:
    root = tmp_path / "set"
    if not root.exists():
        photos(root, 30)
    given: dict[str, Any] = {"preprocessor": SPEC, "target": "class", "cache_dir": str(tmp_path / "cache")}
    data = ImageFolder(root=str(root), **{**given, "batch_size": 5, **STRONG, **options})
    data.setup()
    return data


def _rows(batches: Any) -> dict[int, torch.Tensor]:
    pairs = ((batch.index.tolist(), batch.inputs["pixels"]) for batch in batches)
    return {row: one for rows, pixels in pairs for row, one in zip(rows, pixels, strict=True)}


def _same(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> list[bool]:
    assert a.keys() == b.keys()
    return [torch.equal(a[row], b[row]) for row in a]


def test_a_crop_by_chance_is_torchvisions() -> None:
    image = _image(50, 70)
    theirs = v2.RandomResizedCrop((16, 16), scale=(0.2, 0.9), antialias=True)
    ours = Augmented(SPEC, Augmentation(crop_scale=(0.2, 0.9), flip=False))
    for seed in range(5):
        torch.manual_seed(seed)
        expected = theirs(image)
        torch.manual_seed(seed)
        assert torch.equal(ours(image), expected)


def test_half_of_the_images_are_flipped() -> None:
    image, view = _image(16, 16), Augmented(SPEC, Augmentation(crop_scale=None))
    torch.manual_seed(0)
    flipped = [torch.equal(view(image), image.flip(-1)) for _ in range(200)]
    assert 80 < sum(flipped) < 120
    torch.manual_seed(0)
    kept = [torch.equal(view(image), image) for _ in range(200)]
    assert [not one for one in kept] == flipped


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_change_the_image(policy: Any) -> None:
    image = _image(16, 16)
    view = Augmented(SPEC, Augmentation(crop_scale=None, flip=False, auto_augment=policy))
    torch.manual_seed(0)
    views = [view(image) for _ in range(20)]
    assert sum(torch.equal(one, image) for one in views) < 10
    assert {(one.dtype, tuple(one.shape)) for one in views} == {(torch.uint8, (3, 16, 16))}


def test_erasing_leaves_the_mean_colour() -> None:
    white = torch.full((3, 16, 16), 255, dtype=torch.uint8)
    view = Augmented(SPEC, Augmentation(crop_scale=None, flip=False, random_erasing=1.0))
    torch.manual_seed(0)
    erased = view(white)
    changed = (erased != 255).any(0)
    assert 0.01 < changed.float().mean() < 0.5
    assert set(map(tuple, erased[:, changed].T.tolist())) == {(124, 116, 104)}
    assert (white == 255).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 400), (16, 16), (200, 100)])
@pytest.mark.parametrize("spec", [SPEC, ImageSpec((20, 32), 24, "bicubic"), ImageSpec((16, 16), 18, "lanczos")])
def test_any_size_becomes_the_size(size: tuple[int, int], spec: ImageSpec) -> None:
    image = _image(*size)
    for view in (Plain(spec), Augmented(spec, Augmentation(**STRONG)), Augmented(spec, Augmentation(crop_scale=None))):
        assert tuple(view(image).shape) == (3, *spec.size)
        kept = view.keep(image)
        assert tuple(kept.shape[1:]) == view.kept_size(*size)
        assert kept.numel() <= 3 * 8 * 40 * 40
        assert tuple(view.of_kept(kept).shape) == (3, *spec.size)


def test_no_black_beside_a_wide_image_in_an_oblong_view() -> None:
    white = torch.full((3, 40, 40), 255, dtype=torch.uint8)
    assert (Plain(ImageSpec((16, 48), 16))(white) == 255).all()


def test_what_is_kept_for_evaluation_is_the_view() -> None:
    image, view = _image(50, 70), Plain(ImageSpec((16, 16), 20, "bicubic"))
    assert torch.equal(view.of_kept(view.keep(image)), view(image))


def test_what_is_kept_for_training_leaves_room_for_crops() -> None:
    view = Augmented(ImageSpec((224, 224), 256), Augmentation())
    assert view.kept_size(1000, 2000) == (305, 610)  # 224 / sqrt(0.54)
    assert view.kept_size(200, 300) == (200, 300)
    assert Augmented(ImageSpec((224, 224), 256), Augmentation(crop_scale=(0.9, 1))).kept_size(1000, 2000) == (256, 512)


def test_seeds_are_apart() -> None:
    seeds = {seed_of(seed, epoch, row) for seed in range(5) for epoch in range(5) for row in range(40)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 1 << 63 for seed in seeds)


def test_views_follow_seed_epoch_and_row_alone(tmp_path: Path) -> None:
    loader = _folder(tmp_path).train_dataloader()
    torch.manual_seed(1)
    first, second = _rows(loader), _rows(loader)
    assert sum(_same(first, second)) <= 1
    for options in ({"batch_size": 7}, {"num_workers": 2}, {"eval_batch_size": 3}):
        torch.manual_seed(2)
        assert all(_same(first, _rows(_folder(tmp_path, **options).train_dataloader()))), options
    assert sum(_same(first, _rows(_folder(tmp_path, seed=1).train_dataloader()))) <= 1


def test_fewer_images_are_seen_the_same_way(tmp_path: Path) -> None:
    whole = _rows(_folder(tmp_path).train_dataloader())
    few = _rows(_folder(tmp_path, shots=3).train_dataloader())
    assert all(torch.equal(whole[row], few[row]) for row in few)


def test_loading_leaves_the_random_state_alone(tmp_path: Path) -> None:
    data = _folder(tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 2, 5])
def test_a_loader_goes_on_exactly(tmp_path: Path, workers: int, taken: int) -> None:
    loader = _folder(tmp_path, num_workers=workers).train_dataloader()
    straight = [_rows(loader) for _ in range(3)]
    loader = _folder(tmp_path, num_workers=workers).train_dataloader()
    _rows(loader)
    passing: Iterator[Batch] = iter(loader)
    head = _rows(next(passing) for _ in range(taken))
    resumed = _folder(tmp_path, num_workers=workers).train_dataloader()
    resumed.load_state_dict(loader.state_dict())
    tail = _rows(resumed)
    if taken < 5:
        assert all(_same(straight[1], head | tail))
    assert all(_same(straight[2], tail if taken == 5 else _rows(resumed)))


class Recorder(lightning.LightningModule):
    """Trains one number, draws as dropout does, and notes what every step saw."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple[float, ...]] = []

    def training_step(self, batch: Batch, _: int) -> torch.Tensor:
        pixels = batch.inputs["pixels"].double()
        places = torch.arange(pixels.numel(), dtype=torch.float64).reshape(pixels.shape).cos()
        self.seen.append(((pixels * places).sum().item(), *batch.target.flatten().tolist(), torch.rand(()).item()))
        return self.weight * batch.target.float().mean()

    def validation_step(self, batch: Batch, _: int) -> None:
        assert batch.inputs["pixels"].dtype == torch.uint8
        assert batch.target.dtype == torch.int64

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saver(lightning.Callback):
    """Saves after every batch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        trainer.save_checkpoint(self.folder / f"{trainer.global_step:02}.ckpt")


def _fit(data: ImageFolder, *callbacks: lightning.Callback, ckpt: Path | None = None, epochs: int = 2) -> Recorder:
    module = Recorder()
    lightning.seed_everything(7 if ckpt is None else 8, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        callbacks=[RandomState(), *callbacks],
        enable_checkpointing=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, data, ckpt_path=ckpt, weights_only=True)
    return module


lightnings_warnings = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning",  # Lightning under torch 2.15
    "ignore::lightning.fabric.utilities.warnings.PossibleUserWarning",
)


@lightnings_warnings
@pytest.mark.parametrize("workers", [0, 2])
def test_training_with_mixing_resumes_exactly(tmp_path: Path, workers: int) -> None:
    options: dict[str, Any] = {"mixup": 0.4, "cutmix": 1.0, "num_workers": workers}
    straight = _fit(_folder(tmp_path, **options), Saver(tmp_path)).seen
    assert len(straight) == 10
    for done in (1, 3, 5, 8):
        resumed = _fit(_folder(tmp_path, **options), ckpt=tmp_path / f"{done:02}.ckpt").seen
        assert resumed == straight[done:], done


@lightnings_warnings
def test_mixing_is_off_in_the_last_epochs(tmp_path: Path) -> None:
    seen = _fit(_folder(tmp_path, mixup=0.4, mix_off_epochs=1), epochs=3).seen
    targets = [step[1:-1] for step in seen]
    assert [len(target) for target in targets] == [10, 10, 10, 10, 8, 10, 10, 10, 10, 8, 5, 5, 5, 5, 4]
    for target in targets[:10]:
        assert torch.tensor(target).reshape(-1, 2).sum(1).tolist() == pytest.approx([1.0] * (len(target) // 2))
    assert any(0.01 < share < 0.99 for target in targets[:10] for share in target)


@lightnings_warnings
def test_a_broken_file_in_mid_training_is_named_in_one_sentence(tmp_path: Path) -> None:
    for workers in (0, 2):
        data = _folder(tmp_path, num_workers=workers)
        broken = tmp_path / "set" / data.texts("train", [int(data._parts["train"].take[0])])[0]
        whole = broken.read_bytes()
        broken.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(UserError) as fault:
            _fit(data)
        broken.write_bytes(whole)
        assert str(fault.value).startswith(f"{broken} cannot be decoded")
        assert "data.on_bad=skip" in str(fault.value)
        assert "Traceback" not in str(fault.value)
