"""The precision that suits the hardware: bfloat16 where it is native and, on a processor, measured to be faster."""

import json
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch.nn import functional

from tl_lightning.data.cache import cache_root
from tl_lightning.record import write_json

log = logging.getLogger(__name__)

BF16, FP32 = "bf16-mixed", "32-true"
ROWS, WIDTH = 1024, 768  # tokens of a batch, and what a base model makes of each
ROUNDS = 7
FASTER = 1.2  # below this the casts of mixed precision eat the gain
WAIT_S = 30.0


def native_precision(accelerator: str) -> str:
    """``bf16-mixed`` where the hardware multiplies bfloat16 natively and faster than float32, else ``32-true``.

    GPUs that do it natively do it faster.  Of processors with the same instructions some are twice as fast with
    them and some half as fast, so the product of two matrices is timed, once for a machine: the answer is kept
    in the cache, where all processes and later runs find the same one.
    """
    if accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available():
        return BF16 if torch.cuda.is_bf16_supported(including_emulation=False) else FP32
    if accelerator not in ("auto", "cpu") or torch.backends.mps.is_available():
        return FP32
    able = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not (able.get("avx512_bf16") or able.get("amx_bf16")):
        return FP32
    return BF16 if kept_gain(f"{able.get('cpu_name')}, {_instructions(able)}") >= FASTER else FP32


def _instructions(able: Mapping[str, Any]) -> str:
    return " ".join(
        sorted(name for name, there in able.items() if there is True and name.startswith(("amx", "avx512")))
    )


def kept_gain(processor: str) -> float:
    """How many times as fast as float32 bfloat16 is on this processor: from the cache, else timed and kept there."""
    name = f"{processor}, torch {torch.__version__}"  # not its threads: the ranks of a run may have different numbers
    path = cache_root(None, "hardware") / "bf16.json"
    with ExitStack() as stack:
        with suppress(OSError, NotImplementedError):  # no lock, no folder: this process asks for itself
            path.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(path.with_suffix(".lock"), timeout=WAIT_S))
        known = _known(path)
        if name not in known:
            known[name] = round(gain(), 2)
            log.info("%s: bfloat16 products are %.2f times as fast as float32", processor, known[name])
            with suppress(OSError):
                write_json(path, known)
        return known[name]


def _known(path: Path) -> dict[str, float]:
    try:
        content = json.loads(path.read_text())
        return {str(name): float(value) for name, value in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def gain() -> float:
    """The time of a product in float32 over that in bfloat16, of the quickest of some rounds in turn."""
    given, weight = torch.ones(ROWS, WIDTH), torch.ones(WIDTH, WIDTH)
    halves = given.bfloat16(), weight.bfloat16()

    def product() -> None:
        functional.linear(given, weight)

    def native() -> None:
        functional.linear(*halves)

    with torch.inference_mode():
        rounds = [(_seconds(product), _seconds(native)) for _ in range(ROUNDS)]
    return min(full for full, _ in rounds) / min(half for _, half in rounds)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
