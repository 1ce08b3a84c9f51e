"""One contract for all image backbones, over tiny models of each kind and small ones of each family."""

import json
import math
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv
from transformers import CLIPImageProcessor

from tests.tiny_images import MAKERS, PROCESSOR, SIDE, TINY, pixels, same, save_vision_model, visits
from tl_lightning.backbones import HFImage, ImageBackbone, SmallResNet, Timm, Torchvision
from tl_lightning.backbones.base import group_by_layer
from tl_lightning.backbones.hf_processor import image_spec
from tl_lightning.backbones.image import BLOCK, STAGE
from tl_lightning.check import check
from tl_lightning.errors import UserError
from tl_lightning.images import ImageSpec

Make = Callable[..., ImageBackbone]
Folder = Callable[[str], str]
KINDS = [*MAKERS, *(f"hf {kind}" for kind in TINY)]
LIGHT = ["small_resnet", "torchvision resnet18", "torchvision swin_t", "timm test_vit", "hf vit", "hf clip", "hf resnet"]


@pytest.fixture(scope="session")
def vision(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The folder of a tiny vision model of transformers; read only."""
    return cache(lambda kind: str(save_vision_model(kind, tmp_path_factory.mktemp(kind))))


@pytest.fixture
def make(vision: Folder) -> Make:
    def make(kind: str, **has: Any) -> ImageBackbone:
        torch.manual_seed(0)
        return HFImage(vision(kind.removeprefix("hf ")), **has) if kind.startswith("hf ") else MAKERS[kind](**has)

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str, make: Make) -> None:
    backbone = make(kind)
    assert all(module.training for module in backbone.modules()), "models come in eval mode from their libraries"
    images = pixels(backbone)
    features = backbone(images)
    assert features.shape == (len(images), backbone.out_features)
    assert features.dtype == torch.float32
    features.square().sum().backward()
    idle = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == [], "plain DDP needs a gradient for all"
    assert [n for n, p in backbone.named_parameters() if not p.requires_grad and not n.endswith("mask_token")] == []
    assert isinstance(pickle.loads(pickle.dumps(backbone.preprocessor)), ImageSpec)
    assert {"name", "revision", "pretrained", "weights", "image_size"} <= json.loads(json.dumps(backbone.identity)).keys()
    assert all(key.startswith("model.") for key in backbone.state_dict()), "mean and std stay out of checkpoints"
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), backbone(images.float()))
        torch.testing.assert_close(backbone(images)[:1], backbone(images[:1]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_layer_groups_are_complete_and_in_the_order_of_the_forward_pass(kind: str, make: Make) -> None:
    backbone = make(kind)
    groups = backbone.layer_groups()
    names = [name for name, _ in backbone.named_parameters()]
    assert sorted(name for group in groups for name in group) == sorted(names)
    seen = visits(backbone)
    assert seen == sorted(seen)
    assert set(seen) == set(range(len(groups)))


# what: (how many groups, a name in the first, a name in the second, a name in the last)
GROUPS = {
    "torchvision resnet18": (5, "bn1.weight", "layer1.0.conv1.weight", "layer4.1.bn2.bias"),
    "torchvision mobilenet_v2": (19, "features.0.1.bias", "features.1.conv.0.0.weight", "features.18.0.weight"),
    "torchvision mobilenet_v3_small": (13, "features.0.0.weight", "features.1.block.0.0.weight", "classifier.0.weight"),
    "torchvision efficientnet_b0": (9, "features.0.0.weight", "features.1.0.block.0.0.weight", "features.8.0.weight"),
    "torchvision convnext_tiny": (8, "features.0.0.weight", "features.1.0.layer_scale", "classifier.0.weight"),
    "torchvision densenet121": (5, "features.conv0.weight", "features.transition1.conv.weight", "features.norm5.bias"),
    "torchvision swin_t": (13, "features.0.2.bias", "features.1.0.norm1.weight", "norm.weight"),
    "torchvision vit_b_32": (13, "conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight", "encoder.ln.weight"),
    "timm test_vit": (7, "patch_embed.proj.weight", "blocks.0.norm1.weight", "norm.weight"),
    "timm test_resnet": (5, "conv1.0.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"),
    "timm test_convnext": (5, "stem.0.weight", "stages.0.blocks.0.gamma", "head.norm.weight"),
    "timm test_efficientnet": (6, "conv_stem.weight", "blocks.0.0.conv.weight", "conv_head.weight"),
    "hf vit": (3, "embeddings.cls_token", "layers.0.layernorm_before.weight", "layernorm.weight"),
    "hf clip": (3, "pre_layrnorm.weight", "encoder.layers.0.layer_norm1.weight", "post_layernorm.weight"),
    "hf siglip": (3, "embeddings.patch_embedding.weight", "encoder.layers.0.layer_norm1.weight", "head.probe"),
    "hf swin": (4, "embeddings.norm.weight", "encoder.layers.0.downsample.reduction.weight", "layernorm.weight"),
    "hf resnet": (5, "embedder.embedder.convolution.weight",
                  "encoder.stages.0.layers.0.layer.0.convolution.weight",
                  "encoder.stages.3.layers.0.layer.0.convolution.weight"),
    "small_resnet": (4, "stem.0.weight", "stages.0.0.conv1.weight", "stages.2.0.shortcut.weight"),
}  # fmt: skip


@pytest.mark.parametrize("kind", GROUPS)
def test_layer_groups_of_the_families(kind: str, make: Make) -> None:
    count, first, second, last = GROUPS[kind]
    groups = make(kind).layer_groups()
    assert len(groups) == count
    for name, group in ((first, groups[0]), (second, groups[1]), (last, groups[-1])):
        assert f"model.{name}" in group


@pytest.mark.parametrize(
    ("pattern", "names", "sizes"),
    [
        (BLOCK, ["pos_embed", "layers.0.blocks.0.w", "layers.0.blocks.1.w", "layers.1.downsample.w",
                 "layers.1.blocks.0.w", "norm.w"], [1, 1, 2, 2]),
        (BLOCK, ["features.0.0.weight", "features.1.0.norm1.weight", "features.1.1.attn.relative_position_bias_table",
                 "features.2.norm.weight", "features.3.0.norm1.weight"], [1, 1, 2, 1]),
        (STAGE, ["stem.w", "s1.b1.w", "s1.b2.w", "s2.b1.w"], [1, 2, 1]),
        (STAGE, ["conv_stem.w", "blocks.0.0.w", "blocks.0.1.w", "blocks.1.0.w", "conv_head.w"], [1, 2, 2]),
        (STAGE, ["features.conv1_1.w", "features.conv2_1.w", "features.conv2_2.w"], [1, 2]),
    ],
)  # fmt: skip
def test_the_cut_by_names(pattern: Any, names: list[str], sizes: list[int]) -> None:
    assert [len(group) for group in group_by_layer(names, pattern)] == sizes


def test_a_model_whose_layers_are_not_known_is_refused() -> None:
    backbone = ImageBackbone(nn.Linear(1, 1), ImageSpec((8, 8), 8), {"name": "odd"})
    with pytest.raises(UserError, match="backbone.name=odd cannot be fine-tuned here: no layers found"):
        backbone.measured()


@pytest.mark.parametrize("kind", ["hf vit", "hf clip", "torchvision resnet18", "timm test_vit"])
def test_normalisation_is_that_of_the_configuration(kind: str, make: Make) -> None:
    backbone = make(kind)
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


CONVOLUTIONAL = ["small_resnet", "torchvision resnet18", "torchvision convnext_tiny", "timm test_resnet", "hf resnet"]


@pytest.mark.parametrize("kind", [*CONVOLUTIONAL, "torchvision swin_t", "hf vit", "timm test_vit"])
def test_convolutional_networks_run_in_channels_last(kind: str, make: Make) -> None:
    backbone = make(kind)
    seen: list[Tensor] = []
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size > (1, 1)]
    convolutions[-1].register_forward_hook(lambda module, args, output: seen.extend([args[0], module.weight, output]))
    backbone(pixels(backbone))
    last = [t.stride(1) == 1 and t.is_contiguous(memory_format=torch.channels_last) for t in seen]
    assert seen
    assert all(last) if kind in CONVOLUTIONAL else not any(last)


@pytest.mark.parametrize("kind", LIGHT)
def test_weights_from_a_file(kind: str, make: Make, tmp_path: Path) -> None:
    fresh = {} if kind.startswith(("small", "torch", "timm")) else {"pretrained": False}
    source = make(kind, **fresh)
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    state = {key: value.contiguous() for key, value in source.model.state_dict().items()}
    published, checkpoint = tmp_path / "published.safetensors", tmp_path / "best.ckpt"
    save_file({**state, "fc.weight": torch.zeros(3), "head.weight": torch.zeros(3)} if "small" not in kind else state,
              published)  # fmt: skip
    task = {f"backbone.model.{key}": value for key, value in state.items()}
    torch.save({"state_dict": {**task, "head.1.weight": torch.zeros(2)}, "epoch": 1}, checkpoint)
    for file in (published, checkpoint):
        loaded = make(kind, weights=str(file))
        assert same(loaded, source)
        assert loaded.identity["weights"] == str(file)


@pytest.mark.parametrize("kind", ["hf dinov2", "hf convnext", "hf swin", "timm test_vit", "torchvision swin_t"])
def test_stochastic_depth(kind: str, make: Make) -> None:
    still, dropping = make(kind, drop_path=0.0), make(kind, drop_path=0.9)
    images = pixels(still, 8)
    assert not torch.equal(dropping(images), dropping(images))
    assert torch.equal(still.eval()(images), dropping.eval()(images))


@pytest.mark.parametrize("kind", ["hf vit", "timm test_vit", "timm test_resnet"])
def test_gradient_checkpointing_gives_the_same_gradients(kind: str, make: Make) -> None:
    found = []
    for checkpointing in (False, True):
        backbone = make(kind, gradient_checkpointing=checkpointing)
        backbone(pixels(backbone)).square().sum().backward()
        found.append({name: p.grad for name, p in backbone.named_parameters()})
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("kind", ["hf vit", "hf clip", "hf siglip", "hf swin", "hf beit"])
def test_mean_pooling_leaves_nothing_idle(kind: str, make: Make) -> None:
    backbone = make(kind, pooling="mean")
    backbone(pixels(backbone)).square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


POOLING = {"vit": "cls", "deit": "cls", "beit": "own", "dinov2": "cls", "dinov3": "cls", "clip": "cls"}
POOLING |= {"siglip": "own", "swin": "own", "convnext": "own", "resnet": "own"}


@pytest.mark.parametrize("kind", TINY)
def test_the_pooling_is_the_architectures_own(kind: str, make: Make) -> None:
    backbone = make(f"hf {kind}").eval()
    assert isinstance(backbone, HFImage)
    assert backbone.identity["pooling"] == POOLING[kind]
    images = pixels(backbone)
    output = backbone.output(backbone.normalised(images))
    expected = output.pooler_output.flatten(1) if output.pooler_output is not None else output.last_hidden_state[:, 0]
    assert torch.equal(backbone(images), expected)
    mean = make(f"hf {kind}", pooling="mean").eval()(images)
    if output.last_hidden_state.ndim == 3:
        assert isinstance(backbone, HFImage)
        patches = output.last_hidden_state[:, backbone.leading :]
        assert patches.shape[1] == math.prod(side // PATCH.get(kind, 8) for side in backbone.preprocessor.size)
        if kind != "beit":  # whose last norm is the pooler's
            torch.testing.assert_close(mean, patches.mean(1))


PATCH = {"swin": 4}
SMALLER = ["hf vit", "hf dinov2", "hf dinov3", "hf clip", "hf siglip", "hf swin", "hf beit", "timm test_vit"]


@pytest.mark.parametrize("kind", [*SMALLER, "timm test_resnet", "torchvision vit_b_32"])
def test_another_image_size(kind: str, make: Make) -> None:
    backbone = make(kind, image_size=2 * SIDE)
    assert backbone.preprocessor.size == (2 * SIDE, 2 * SIDE)
    assert backbone(pixels(backbone)).shape[1] == backbone.out_features


def test_position_embeddings_are_interpolated_not_made_anew(make: Make, tmp_path: Path) -> None:
    for kind, name in (("timm test_vit", "pos_embed"), ("torchvision vit_b_32", "encoder.pos_embedding")):
        source = make(kind, image_size=160)
        positions = source.model.get_parameter(name)
        ramp = torch.linspace(-1, 1, 5)[None, None, :, None] * torch.ones(1, 5, 5, positions.shape[-1])
        positions.data[:, -25:] = ramp.reshape(1, 25, -1) if positions.shape[1] <= 26 else 0.5
        file = tmp_path / f"{name}.safetensors"
        save_file({key: value.contiguous() for key, value in source.model.state_dict().items()}, file)
        larger = make(kind, image_size=320, weights=str(file)).model.get_parameter(name)
        assert larger.shape[1] > positions.shape[1]
        assert same(make(kind, image_size=320, weights=str(file)), make(kind, image_size=320, weights=str(file)))
        assert larger[:, 1:].mean().item() == pytest.approx(positions[:, 1:].mean().item(), abs=0.05)


WORDS = sorted(file.stem for file in (Path(__file__).parent.parent / "conf/backbone").glob("*.yaml"))
IMAGES = ["clip_vit_b32", "convnext_tiny", "dinov2_small", "efficientnet_b0", "mobilenet_v2", "resnet18", "resnet50",
          "siglip_base", "small_resnet", "swin_t", "vit_b16", "vit_base"]  # fmt: skip


@pytest.mark.parametrize("word", [*IMAGES, "torchvision", "timm", "hf_image"])
def test_the_words_of_the_configuration(word: str, compose: Callable[..., dict[str, Any]]) -> None:
    assert word in WORDS
    named = [] if word in IMAGES else ["backbone.name=resnet50"]
    checked = check(compose("+experiment=bert_sst2", f"backbone={word}", *named))["backbone"]
    assert checked["weights"] is None
    if checked["_target_"].endswith("Torchvision"):
        small = Torchvision(**{k: v for k, v in checked.items() if k != "_target_"} | {"pretrained": False})
        assert small.out_features > 0


def test_a_small_network_learns_digits_in_seconds() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images * 15.9, dtype=torch.uint8)[:, None].expand(-1, 3, -1, -1)
    target = torch.tensor(digits.target)
    torch.manual_seed(0)
    backbone, head = SmallResNet(width=8, image_size=8), nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-2)
    for rows in torch.randperm(1200).repeat(3).split(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(backbone(images[rows])), target[rows]).backward()
        optimizer.step()
    backbone.eval()
    with torch.no_grad():
        right = (head(backbone(images[1200:])).argmax(1) == target[1200:]).float().mean()
    assert right > 0.85
