"""What image backbones ask of their images: size, crop and normalisation, from their own configuration."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPImageProcessor

from tests.tiny_images import PROCESSOR, SIDE, make, pixels, same, shared
from tl_lightning.backbones import Timm, Torchvision
from tl_lightning.backbones.hf_processor import image_spec
from tl_lightning.images import ImageSpec


@pytest.mark.parametrize("kind", ["hf vit", "hf clip", "torchvision resnet18", "timm test_vit"])
def test_normalisation_is_that_of_the_configuration(kind: str) -> None:
    backbone = shared(kind)
    spec, images = backbone.preprocessor, pixels(backbone)
    expected = tv.normalize(images / 255, list(spec.mean), list(spec.std))
    torch.testing.assert_close(backbone.normalised(images), expected, atol=1e-5, rtol=1e-5)
    if kind == "hf clip":
        processor = CLIPImageProcessor(**{**PROCESSOR, "do_resize": False, "do_center_crop": False})
        theirs = processor(list(images), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(backbone.normalised(images), theirs, atol=1e-4, rtol=1e-4)


PROCESSORS: list[tuple[dict[str, Any], ImageSpec]] = [
    ({"size": 224, "crop_size": 224, "resample": 3}, ImageSpec((224, 224), 224, "bicubic")),
    ({"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
     ImageSpec((224, 224), 256, "bicubic")),
    ({"size": {"height": 384, "width": 384}, "resample": 2}, ImageSpec((384, 384), 384)),
    ({"size": {"shortest_edge": 224}, "crop_pct": 0.875}, ImageSpec((224, 224), 256)),
    ({"size": {"shortest_edge": 384}, "crop_pct": 1.0}, ImageSpec((384, 384), 384)),
    ({"size": 224, "crop_size": 192, "do_center_crop": False}, ImageSpec((224, 224), 224)),
    ({"size": 8, "do_normalize": False}, ImageSpec((8, 8), 8, mean=(0, 0, 0), std=(1, 1, 1))),
    ({"size": 8, "rescale_factor": 2 / 255, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]},
     ImageSpec((8, 8), 8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))),
]  # fmt: skip


@pytest.mark.parametrize(("settings", "spec"), PROCESSORS)
def test_image_processors_as_specs(settings: dict[str, Any], spec: ImageSpec) -> None:
    found = image_spec(settings)
    assert found[:3] == spec[:3]
    assert found.mean == pytest.approx(spec.mean)
    assert found.std == pytest.approx(spec.std)


def test_sizes_are_those_of_the_published_weights_also_for_fresh_ones() -> None:
    assert Torchvision("shufflenet_v2_x0_5", pretrained=False).preprocessor == ImageSpec((224, 224), 256)
    resized = Torchvision("shufflenet_v2_x0_5", pretrained=False, image_size=112).preprocessor
    assert resized == ImageSpec((112, 112), 128)
    assert Timm("test_vit", pretrained=False).preprocessor[:3] == ((160, 160), math.floor(160 / 0.95), "bicubic")


SMALLER = ["hf vit", "hf dinov2", "hf dinov3", "hf clip", "hf siglip", "hf swin", "hf beit", "timm test_vit"]


@pytest.mark.parametrize("kind", [*SMALLER, "timm test_resnet"])
def test_another_image_size(kind: str) -> None:
    backbone = make(kind, image_size=2 * SIDE)
    assert backbone.preprocessor.size == (2 * SIDE, 2 * SIDE)
    assert backbone(pixels(backbone)).shape[1] == backbone.out_features


POSITIONS = [("timm test_vit", "pos_embed"), ("torchvision vit_b_32", "encoder.pos_embedding")]


@pytest.mark.parametrize(("kind", "name"), POSITIONS)
def test_position_embeddings_are_interpolated_not_made_anew(kind: str, name: str, tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    source = make(kind, image_size=160)
    positions = source.model.get_parameter(name)
    side = math.isqrt(positions.shape[1] - 1)
    positions.data[:, 1:] = torch.linspace(-1, 1, side)[:, None].expand(side, side).reshape(-1, 1)
    save_file({key: value.contiguous() for key, value in source.model.state_dict().items()}, file)
    larger = make(kind, image_size=320, weights=str(file))
    rows = larger.model.get_parameter(name)[0, 1:].reshape(2 * side, 2 * side, -1)
    assert (rows.diff(dim=0) > -1e-3).all(), "still a ramp from top to bottom"
    assert rows[0].mean() < -0.8
    assert rows[-1].mean() > 0.8
    if kind.startswith("timm"):
        save_file({key: value.contiguous() for key, value in larger.model.state_dict().items()}, file)
        assert same(make(kind, image_size=320, weights=str(file)), larger), "weights of this size load as they are"
