"""Tiny image models of each kind, and what tests ask of all of them."""

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import save_for_hf
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, CLIPConfig, PreTrainedConfig, SiglipConfig
from transformers.utils import logging

from tl_lightning.backbones import HFImage, ImageBackbone, SmallResNet, Timm, Torchvision

SIDE = 32
SEED = 2026  # no run has it: published and fresh weights must differ
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
VIT |= {"image_size": SIDE, "patch_size": 8}
GRID = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1]}
SWIN = {"image_size": SIDE, "patch_size": 2, "embed_dim": 8, "depths": [1, 2], "num_heads": [2, 2], "window_size": 4}
TINY: dict[str, Callable[[], PreTrainedConfig]] = {
    "vit": lambda: AutoConfig.for_model("vit", **VIT),
    "deit": lambda: AutoConfig.for_model("deit", **VIT),
    "beit": lambda: AutoConfig.for_model("beit", **VIT),
    "dinov2": lambda: AutoConfig.for_model("dinov2", **{**VIT, "image_size": 64}),
    "dinov3": lambda: AutoConfig.for_model("dinov3_vit", num_register_tokens=3, **VIT),
    "clip": lambda: CLIPConfig(text_config=TEXT, vision_config=VIT),
    "siglip": lambda: SiglipConfig(text_config=TEXT, vision_config=VIT),
    "swin": lambda: AutoConfig.for_model("swin", **SWIN),
    "convnext": lambda: AutoConfig.for_model("convnext", **GRID),
    "resnet": lambda: AutoConfig.for_model("resnet", **GRID),
}
PROCESSOR: dict[str, Any] = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.2, 0.1], "size": SIDE, "resample": 3}
TIMM = ("test_vit", "test_resnet", "test_convnext", "test_efficientnet")


def save_vision_model(kind: str, folder: Path) -> Path:
    """A random vision model of transformers, in a folder as on the hub."""
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        AutoModel.from_config(TINY[kind]()).save_pretrained(folder)  # type: ignore[no-untyped-call]
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


def save_timm_model(architecture: str, folder: Path) -> Path:
    """A random model of timm with its classifier, in a folder as timm puts it on the hub."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        save_for_hf(timm.create_model(architecture), str(folder), safe_serialization=True)
    return folder


MAKERS: dict[str, Callable[..., ImageBackbone]] = {"small_resnet": lambda **has: SmallResNet(width=8, **has)}
MAKERS |= {
    f"torchvision {name}": lambda name=name, size=size, **has: Torchvision(
        name, pretrained=False, **{"image_size": size, **has}
    )
    for name, size in {
        "resnet18": 32,
        "mobilenet_v2": 32,
        "mobilenet_v3_small": 32,
        "efficientnet_b0": 32,
        "convnext_tiny": 32,
        "regnet_x_400mf": 32,
        "densenet121": 32,
        "shufflenet_v2_x0_5": 32,
        "mnasnet0_5": 32,
        "squeezenet1_1": 32,
        "googlenet": 32,
        "inception_v3": 96,
        "swin_t": 32,
        "vit_b_32": 64,
    }.items()
}
MAKERS |= {f"timm {name}": lambda name=name, **has: Timm(name, pretrained=False, **has) for name in TIMM}


KINDS = [*MAKERS, *(f"hf {kind}" for kind in TINY)]


@cache
def vision(kind: str) -> str:
    """The folder of a tiny vision model of transformers; read only."""
    folder = Path(tempfile.mkdtemp(prefix="tl_lightning_vision_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(save_vision_model(kind, folder))


def make(kind: str, **has: Any) -> ImageBackbone:
    """A backbone of one of KINDS."""
    torch.manual_seed(0)
    return HFImage(vision(kind.removeprefix("hf ")), **has) if kind.startswith("hf ") else MAKERS[kind](**has)


@cache
def shared(kind: str) -> ImageBackbone:
    """One backbone of each kind for the tests that only look at it."""
    return make(kind)


def pixels(backbone: ImageBackbone, count: int = 2) -> Tensor:
    """Random images of the backbone's size, (B, 3, H, W) uint8."""
    chance = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, *backbone.preprocessor.size), dtype=torch.uint8, generator=chance)


def visits(backbone: ImageBackbone) -> list[int]:
    """The layer groups of the modules that have parameters, in the order in which an image passes them."""
    place = {name: depth for depth, group in enumerate(backbone.layer_groups()) for name in group}
    seen: list[int] = []

    def note(depth: int) -> Callable[..., None]:
        return lambda *_: seen.append(depth)

    hooks = []
    for path, module in backbone.named_modules():
        own = [f"{path}.{name}" for name, _ in module.named_parameters(recurse=False)]
        if own:
            hooks.append(module.register_forward_pre_hook(note(place[own[0]])))
    with torch.no_grad():
        backbone.eval()(pixels(backbone, 1))
    for hook in hooks:
        hook.remove()
    return seen


def same(one: nn.Module, other: nn.Module) -> bool:
    """Whether two modules hold the same state, bit for bit."""
    states: list[dict[str, Any]] = [one.state_dict(), other.state_dict()]
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
