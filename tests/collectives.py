"""What each process of a run asks of all the others, call by call, to see whether all of them ask for the same.

A collective that one process alone enters need not crash: it may pair with another one of the others' of the same
shape, and give a wrong number in silence.  So the place in the code counts too, and must be the same on all ranks.
"""

import functools
import json
import sys
from collections.abc import Callable, Iterator
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.distributed import distributed_c10d
from torch.nn.parallel import DistributedDataParallel

NAMES = (
    *("all_gather", "all_gather_coalesced", "all_gather_into_tensor", "all_gather_object", "all_reduce"),
    *("all_reduce_coalesced", "all_to_all", "all_to_all_single", "barrier", "broadcast", "broadcast_object_list"),
    *("gather", "gather_object", "monitored_barrier", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter"),
    "scatter_object_list",
)
OURS = ("tl_lightning", "lightning", "torchmetrics", "tests")  # packages whose frames tell where a call comes from
DEEPEST, SHOWN = 60, 6  # places kept, and told where ranks differ


def record(path: Path) -> None:
    """From here on, note each collective of this process in a file before it is begun.

    DDP exchanges buffers and gradients out of sight, before a forward pass and within a backward one: these are noted
    too.  (torch's own check, ``TORCH_DISTRIBUTED_DEBUG=DETAIL``, would see them, but DDP under it crashes in 2.15.)
    """
    path.touch()  # a run without any has a file as well
    inside = [False]
    for name in NAMES:
        original = getattr(distributed_c10d, name)
        wrapped = _noted(path, inside, original)
        for module in list(sys.modules.values()):
            if getattr(module, "__dict__", {}).get(name) is original:
                setattr(module, name, wrapped)
    DistributedDataParallel.forward = _noted(path, [False], DistributedDataParallel.forward)  # type: ignore[method-assign]
    torch.autograd.backward = _noted(path, [False], torch.autograd.backward)


def _noted(path: Path, inside: list[bool], original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def noted(*args: Any, **kwargs: Any) -> Any:
        if inside[0]:  # one of torch's own, made of others
            return original(*args, **kwargs)
        with path.open("a") as file:
            file.write(json.dumps([original.__name__, _shapes(args, kwargs), _places(sys._getframe(1))]) + "\n")
        inside[0] = True
        try:
            return original(*args, **kwargs)
        finally:
            inside[0] = False

    return noted


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
    return [f"{value.dtype} {list(value.shape)}" for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]


def _places(frame: FrameType | None) -> list[str]:
    """Where a call comes from, the innermost place first."""
    found: list[str] = []
    while frame is not None and len(found) < DEEPEST:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package in OURS:
            found.append(f"{frame.f_globals['__name__']}:{frame.f_lineno} {frame.f_code.co_name}")
        frame = frame.f_back
    return found


def difference(paths: list[Path]) -> str | None:
    """The first call that not all ranks make at the same place, in words."""
    for number, calls in enumerate(zip_longest(*map(_calls, paths))):
        if any(call != calls[0] for call in calls[1:]):
            same = _shared([call[2] if call else [] for call in calls])
            told = "\n".join(f"  rank {rank}: {_told(call, same)}" for rank, call in enumerate(calls))
            return f"collective {number} is not the same on all ranks:\n{told}"
    return None


def _calls(path: Path) -> Iterator[Any]:
    with path.open() as file:
        for line in file:
            yield json.loads(line)


def _shared(places: list[list[str]]) -> int:
    """How many of the innermost places are the same."""
    return next((at for at, here in enumerate(zip_longest(*places)) if len(set(here)) > 1), 0)


def _told(call: Any, same: int) -> str:
    if call is None:
        return "none"
    name, shapes, places = call
    return "\n    ".join([f"{name}({', '.join(shapes)})", *places[same : same + SHOWN]])
