"""What decides what a backbone makes of its inputs, as one hash."""

import hashlib
import inspect
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tl_lightning.backbones.base import Backbone

ADDRESS = re.compile(r"0x[0-9a-fA-F]+")  # of a function in a module's description: another one in each process
LIBRARIES = ("torch", "torchvision", "transformers", "timm", "peft")
PACKAGE = Path(__file__).parents[1]


def fingerprint(backbone: Backbone) -> str:
    """64 hex digits of its weights and buffers, its architecture, its facts and the code behind it.

    About a second for each gigabyte and core; the device and the mode have no part in it.
    """
    tensors = [*backbone.named_parameters(), *backbone.named_buffers()]
    with ThreadPoolExecutor() as pool:
        weights = list(pool.map(lambda pair: _digest(*pair), tensors))
    parts = [weights, ADDRESS.sub("", repr(backbone)), backbone.identity, _settings(backbone), *_code(type(backbone))]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()


def _digest(name: str, tensor: Tensor) -> list[Any]:
    values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return [name, str(tensor.dtype), list(tensor.shape), hashlib.sha256(values.numpy().data).hexdigest()]


def _settings(backbone: Backbone) -> list[str]:
    """The configurations of the models of transformers inside: not all of it shows in the modules."""
    configs = (getattr(module, "config", None) for module in backbone.modules())
    return sorted(
        {config.to_json_string() for config in configs if config is not None and hasattr(config, "to_json_string")}
    )


@cache
def _code(kind: type[Backbone]) -> tuple[str, ...]:
    """The libraries' versions, and the source of this package's and of the class's own."""
    rooms = [path for room in ("backbones", "data") for path in sorted((PACKAGE / room).rglob("*.py"))]
    sources = {str(path): path.read_bytes() for path in [*rooms, *_sources(kind)]}
    return (*map(_version, LIBRARIES), hashlib.sha256(b"".join(sources.values())).hexdigest())


def _sources(kind: type[Any]) -> Iterator[Path]:
    for base in kind.__mro__:
        try:
            file = inspect.getsourcefile(base)
        except (TypeError, OSError):  # built in, or typed by hand
            continue
        if file and not base.__module__.startswith("torch."):
            yield Path(file)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
