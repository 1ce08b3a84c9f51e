"""Image backbones that cannot be: each is refused with the value, what is allowed, and no code run."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.tiny_images import make, save_timm_model, save_vision_model, vision
from tl_lightning.backbones import HFImage, Timm, Torchvision
from tl_lightning.errors import UserError

SECONDS = 10
WITH_WEIGHTS = ["small_resnet", "torchvision shufflenet_v2_x0_5", "timm test_vit", "hf vit"]


@pytest.fixture
def in_time() -> Iterator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SECONDS


VIT = "tiny/vit"  # stands for its folder
FRESH = {"pretrained": False}
CALLS: list[tuple[Any, dict[str, Any], str]] = [
    (Torchvision, {"name": "resnet51"}, "no classification model of this name; did you mean resnet50?"),
    (Torchvision, {"name": "resnet50.IMAGENET1K_V3"}, "resnet50 has no such weights; did you mean IMAGENET1K_V"),
    (Timm, {"name": "resnet5O"}, "backbone.name=resnet5O: timm has no model of this name; did you mean resnet50"),
    (Timm, {"name": "resnet50.a1_in2k"}, "resnet50 has no such weights; did you mean a1_in1k?"),
    (Timm, {"name": "nobody/nothing"}, "the hub has no model of this name"),
    (HFImage, {"name": "nobody/nothing"}, "backbone.name=nobody/nothing: the hub has no model of this name"),
    (HFImage, {"name": "google-bert/bert-base-uncased"}, r"has no preprocessor_config.json.*is it an image model\?"),
    (HFImage, {"name": VIT, "revision": "v9"}, "is for hub models, and .* is a folder"),
    (HFImage, {"name": VIT, "drop_path": 0.1}, "backbone.drop_path=0.1: /.* has no stochastic depth"),
    (Torchvision, {"name": "resnet18", "drop_path": 0.1, **FRESH}, "resnet18 has no stochastic depth"),
    (Timm, {"name": "vgg11", "drop_path": 0.1, **FRESH}, "vgg11 has no stochastic depth"),
    (
        HFImage,
        {"name": VIT, "image_size": 36},
        "patches of 8 pixels, so that a multiple of 8 is needed, as 32 or 40",
    ),
    (Torchvision, {"name": "vit_b_16", "image_size": 100, **FRESH}, "a multiple of 16 is needed, as 96 or 112"),
    (Timm, {"name": "test_vit", "image_size": 100, **FRESH}, "a multiple of 16 is needed, as 96 or 112"),
    (Torchvision, {"name": "maxvit_t", "image_size": 100, **FRESH}, "backbone.image_size=100: maxvit_t does not take"),
    (Torchvision, {"name": "inception_v3", "image_size": 32, **FRESH}, "backbone.image_size=32: inception_v3 does not"),
    (Timm, {"name": "vgg11", "gradient_checkpointing": True, **FRESH}, "gradient_checkpointing=true: vgg11 cannot"),
]


@pytest.mark.usefixtures("hub", "in_time")
@pytest.mark.parametrize(("kind", "has", "message"), CALLS, ids=[f"{c[0].__name__} {c[1]}"[:60] for c in CALLS])
def test_what_cannot_be(kind: Any, has: dict[str, Any], message: str) -> None:
    name = vision("vit") if has["name"] == VIT else has["name"]
    with pytest.raises(UserError, match=message):
        kind(**{**has, "name": name})


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_weights_of_another_architecture_name_the_keys(kind: str, tmp_path: Path) -> None:
    save_file({"conv9.weight": torch.zeros(3), "fc.weight": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"backbone\.weights=.*w\.safetensors does not fit .*issing.*conv9\.weight"):
        make(kind, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_weights_of_another_shape_name_the_keys(kind: str, tmp_path: Path) -> None:
    state = {key: value.contiguous() for key, value in make(kind).model.state_dict().items()}
    wrong = next(key for key in state if key.endswith("weight"))
    save_file({**state, wrong: torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=rf"does not fit .*{wrong}"):
        make(kind, weights=str(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("kind", WITH_WEIGHTS)
def test_a_pickle_with_a_payload_is_refused_and_does_not_run(kind: str, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (proof,)

    torch.save({"a": Payload()}, tmp_path / "w.pth")
    (tmp_path / "half.safetensors").write_bytes(b"\x10\x00")
    for name in ("w.pth", "half.safetensors"):
        with pytest.raises(UserError, match="is damaged, or not a safetensors file"):
            make(kind, weights=str(tmp_path / name))
    assert not proof.exists()


def test_a_file_of_the_published_weights_with_a_payload_does_not_run(tmp_path: Path) -> None:
    proof, folder = tmp_path / "ran", save_timm_model("test_vit", tmp_path / "model")

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (proof,)

    (folder / "model.safetensors").unlink()
    torch.save({"a": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is damaged"):
        Timm(str(folder))
    assert not proof.exists()


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=r"pip install 'tl_lightning\[timm\]'"):
        Timm("resnet18")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "config.json is missing, damaged or not timm's"), ('{"architecture": "x9"}', "has no architecture x9")],
)
def test_a_folder_that_is_not_of_timm(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=message):
        Timm(str(tmp_path))


@pytest.mark.parametrize("settings", ["{", '{"size": {"longest": 3}}', '{"size": 8, "resample": 77}', "[]"])
def test_a_damaged_image_processor(settings: str, tmp_path: Path) -> None:
    save_vision_model("vit", tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(settings)
    with pytest.raises(UserError, match=r"its preprocessor_config.json cannot be read"):
        HFImage(str(tmp_path))


def test_layers_that_a_published_file_lacks_are_not_made_up(tmp_path: Path) -> None:
    save_vision_model("vit", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    lacking = next(key for key in tensors if "attention" in key)
    save_file({key: value for key, value in tensors.items() if key != lacking}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="does not fit ViTModel: 1 keys missing"):
        HFImage(str(tmp_path))
