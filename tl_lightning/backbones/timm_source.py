"""Where a model of timm comes from: timm's own names, the hub, or a folder."""

import dataclasses
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from tl_lightning.backbones.hub import Snapshot, fetch, snapshot
from tl_lightning.backbones.torch_hub import cached_file
from tl_lightning.errors import UserError, first_line
from tl_lightning.images import ImageSpec
from tl_lightning.values import nearest

HUB, FOLDER = ("hf-hub:", "hf_hub:"), "local-dir:"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class Source(NamedTuple):
    """What a name stands for: timm's architecture, its arguments and description, and the files if there are any."""

    architecture: str
    arguments: dict[str, Any]
    described: Any  # timm's PretrainedCfg
    file: Path | None
    revision: str | None


def find(timm: ModuleType, name: str, revision: str | None, published: bool) -> Source:
    """The source of ``name``, with its file of weights if ``published``.

    Raises:
        UserError: there is none, or it cannot be had.
    """
    if name.startswith(HUB):
        return _of_files(timm, name, fetch(name.partition(":")[2], revision, published), published)
    plain = name.removeprefix(FOLDER)
    if plain != name or "/" in name or Path(plain).is_dir():
        return _of_files(timm, name, snapshot(plain, revision, published), published)
    return _registered(timm, name, revision, published)


def _of_files(timm: ModuleType, name: str, found: Snapshot, published: bool) -> Source:
    """What timm saved in a folder."""
    try:
        config = json.loads((found.folder / "config.json").read_text())
        described = {**config.get("pretrained_cfg", config)}
        fields = {field.name for field in dataclasses.fields(timm.models.PretrainedCfg)}
        described = timm.models.PretrainedCfg(**{key: described[key] for key in fields & described.keys()})
        architecture, arguments = config["architecture"], dict(config.get("model_args") or {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as fault:
        raise UserError(
            f"backbone.name={name}: its config.json is missing, damaged or not timm's: {first_line(fault)}"
        ) from fault
    if not timm.is_model(architecture):
        raise UserError(f"backbone.name={name}: this version of timm has no architecture {architecture}")
    return Source(architecture, arguments, described, _file(name, found.folder) if published else None, found.commit)


def _file(name: str, folder: Path) -> Path:
    for file in WEIGHTS:
        if (folder / file).is_file():
            return folder / file
    raise UserError(f"backbone.name={name} has none of the files {', '.join(WEIGHTS)}")


def _registered(timm: ModuleType, name: str, revision: str | None, published: bool) -> Source:
    """One of the models that timm knows by name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        raise UserError(
            f"backbone.name={name}: timm has no model of this name{nearest(architecture, timm.list_models())}"
        )
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag and tag not in tags:
        raise UserError(f"backbone.name={name}: {architecture} has no such weights{nearest(tag, tags)}")
    described = timm.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    if not published:
        return Source(architecture, {}, described, None, None)
    if not described.has_weights:
        raise UserError(f"backbone.name={name}: timm publishes no weights for it (backbone.pretrained=false)")
    if not described.hf_hub_id:
        file = cached_file(described.url, name)
        return Source(architecture, {}, described, file, file.name)
    found = fetch(described.hf_hub_id, revision, with_weights=True, needed=())
    return Source(architecture, {}, described, _file(name, found.folder), found.commit)


def image_spec(timm: ModuleType, described: Any) -> ImageSpec:
    """How the published weights were trained to see."""
    config = timm.data.resolve_data_config(pretrained_cfg=described.to_dict())
    _, height, width = config["input_size"]
    resize = math.floor(min(height, width) / config["crop_pct"])
    return ImageSpec((height, width), resize, config["interpolation"], tuple(config["mean"]), tuple(config["std"]))
