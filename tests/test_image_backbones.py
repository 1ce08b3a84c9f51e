"""One contract for all image backbones, over tiny models of each kind and small ones of each family."""

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import list_models

from tests.tiny_images import KINDS, TINY, make, pixels, same, shared
from tl_lightning.backbones import HFImage, SmallResNet
from tl_lightning.check import check
from tl_lightning.images import ImageSpec

HEAD = {  # kind -> a key of its own head in the published file
    "small_resnet": None,
    "torchvision shufflenet_v2_x0_5": "fc.weight",
    "torchvision squeezenet1_1": "classifier.1.bias",
    "torchvision mnasnet0_5": "classifier.1.bias",
    "timm test_vit": "head.weight",
    "timm test_resnet": "fc.weight",
    "hf vit": "classifier.weight",
    "hf clip": "text_model.final_layer_norm.weight",
    "hf resnet": "classifier.1.weight",
}


@pytest.mark.parametrize("kind", KINDS)
def test_contract(kind: str) -> None:
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
    assert {"name", "revision", "pretrained", "weights", "image_size"} <= json.loads(
        json.dumps(backbone.identity)
    ).keys()
    assert all(key.startswith("model.") for key in backbone.state_dict()), "mean and std stay out of checkpoints"
    backbone.eval()
    with torch.no_grad():
        torch.testing.assert_close(backbone(images), backbone(images.float()))
        torch.testing.assert_close(backbone(images)[:1], backbone(images[:1]), atol=1e-4, rtol=1e-2)


CONVOLUTIONAL = ["small_resnet", "torchvision resnet18", "torchvision convnext_tiny", "timm test_resnet", "hf resnet"]


@pytest.mark.parametrize("kind", [*CONVOLUTIONAL, "torchvision swin_t", "hf vit", "timm test_vit"])
def test_convolutional_networks_run_in_channels_last(kind: str) -> None:
    backbone = shared(kind)
    seen: list[Tensor] = []
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d) and m.kernel_size > (1, 1)]
    convolutions[-1].register_forward_hook(lambda module, args, output: seen.extend([args[0], module.weight, output]))
    backbone(pixels(backbone))
    last = [t.stride(1) == 1 and t.is_contiguous(memory_format=torch.channels_last) for t in seen]
    assert seen
    assert all(last) if kind in CONVOLUTIONAL else not any(last)


@pytest.mark.parametrize("kind", HEAD)
def test_weights_from_a_file(kind: str, tmp_path: Path) -> None:
    source, head = make(kind), HEAD[kind]
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter)
    state = {key: value.contiguous() for key, value in source.model.state_dict().items()}
    published, checkpoint = tmp_path / "published.safetensors", tmp_path / "best.ckpt"
    save_file({**state, **({head: torch.zeros(3)} if head else {})}, published)
    task = {f"backbone.model.{key}": value for key, value in state.items()}
    torch.save({"state_dict": {**task, "head.1.weight": torch.zeros(2)}, "epoch": 1}, checkpoint)
    for file in (published, checkpoint):
        loaded = make(kind, weights=str(file))
        assert same(loaded, source)
        assert loaded.identity["weights"] == str(file)


@pytest.mark.parametrize("kind", ["hf dinov2", "hf convnext", "hf swin", "timm test_vit", "torchvision swin_t"])
def test_stochastic_depth(kind: str) -> None:
    still, dropping = make(kind, drop_path=0.0), make(kind, drop_path=0.9)
    images = pixels(still, 8)
    assert not torch.equal(dropping(images), dropping(images))
    assert torch.equal(still.eval()(images), dropping.eval()(images))


@pytest.mark.parametrize("kind", ["hf vit", "timm test_vit", "timm test_resnet"])
def test_gradient_checkpointing_gives_the_same_gradients(kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        backbone = make(kind, gradient_checkpointing=checkpointing)
        backbone(pixels(backbone)).square().sum().backward()
        found.append({name: p.grad for name, p in backbone.named_parameters()})
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("kind", ["hf vit", "hf clip", "hf siglip", "hf swin", "hf beit"])
def test_mean_pooling_leaves_nothing_idle(kind: str) -> None:
    backbone = make(kind, pooling="mean")
    backbone(pixels(backbone)).square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


POOLING = {"vit": "cls", "deit": "cls", "beit": "own", "dinov2": "cls", "dinov3": "cls", "clip": "cls"}
POOLING |= {"siglip": "own", "swin": "own", "convnext": "own", "resnet": "own"}


@pytest.mark.parametrize("kind", TINY)
def test_the_pooling_is_the_architectures_own(kind: str) -> None:
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
        assert checked["name"] in list_models()


def test_a_small_network_learns_digits_in_seconds() -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.tensor(digits.images * 15.9, dtype=torch.uint8)[:, None].expand(-1, 3, -1, -1)
    target = torch.tensor(digits.target)
    torch.manual_seed(0)
    backbone, head = SmallResNet(width=8, image_size=8), nn.Linear(32, 10)
    optimizer = torch.optim.AdamW([*backbone.parameters(), *head.parameters()], lr=1e-2)
    for rows in torch.randperm(1200).repeat(3).split(60):  # type: ignore[no-untyped-call]
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(backbone(images[rows])), target[rows]).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    backbone.eval()
    with torch.no_grad():
        right = (head(backbone(images[1200:])).argmax(1) == target[1200:]).float().mean()
    assert right > 0.85
