"""Which precision a run gets where none is named, and what makes its products quick."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tl_lightning import build, precision
from tl_lightning.backbones import HFText
from tl_lightning.precision import native_precision

Compose = Callable[..., dict[str, Any]]
Tiny = Callable[[str], Path]
BF16, FP32 = "bf16-mixed", "32-true"


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A machine with or without a GPU, whose GPU and processor multiply bfloat16 natively or not, and how fast."""
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path / "cache"))

    def hardware(
        gpu: bool = False, gpu_able: bool = False, cpu_able: bool = False, apple: bool = False, gain: float = 1.7
    ) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return gpu and (gpu_able or including_emulation)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": cpu_able, "amx_bf16": False})
        monkeypatch.setattr(precision, "gain", lambda: gain)

    return hardware


@pytest.mark.parametrize(
    ("machine", "accelerator", "expected"),
    [
        ({"gpu": True, "gpu_able": True}, "auto", BF16),
        ({"gpu": True, "gpu_able": True}, "gpu", BF16),
        ({"gpu": True}, "auto", FP32),  # it would emulate it, which is slower
        ({"gpu": True, "gpu_able": True}, "cpu", FP32),
        ({"gpu": True, "cpu_able": True}, "cpu", BF16),
        ({"gpu": True, "cpu_able": True}, "auto", FP32),
        ({"cpu_able": True}, "auto", BF16),
        ({"cpu_able": True}, "cpu", BF16),
        ({"cpu_able": True, "gain": 0.5}, "auto", FP32),  # native, and half as fast
        ({"cpu_able": True, "gain": 1.1}, "auto", FP32),  # less than what casts cost
        ({}, "auto", FP32),
        ({"apple": True, "cpu_able": True}, "auto", FP32),
        ({"cpu_able": True}, "tpu", FP32),
    ],
)
def test_bf16_where_the_hardware_does_it_natively_and_faster(
    machine: dict[str, bool], accelerator: str, expected: str, hardware: Callable[..., None]
) -> None:
    hardware(**machine)
    assert native_precision(accelerator) == expected


@pytest.mark.parametrize("gpu", [True, False])
def test_float32_products_take_tf32_on_a_gpu(
    gpu: bool, hardware: Callable[..., None], compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hardware(gpu=gpu)
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    node = compose("trainer=cpu", "trainer.enable_progress_bar=false")["trainer"]
    data = SimpleNamespace(train_dataloader=lambda: range(5))
    trainer = build.make_trainer(node, data, [], [], tmp_path)  # type: ignore[arg-type]
    assert asked == (["high"] if gpu else [])
    assert trainer.precision == FP32
    assert trainer.log_every_n_steps == 5  # type: ignore[attr-defined]


def test_the_log_says_which_and_who_chose_it() -> None:
    from tl_lightning.run import _precision

    def said(precision: str, asked: str | None) -> str:
        task = SimpleNamespace(config={"trainer": {"precision": asked}})
        return _precision(SimpleNamespace(trainer=SimpleNamespace(precision=precision), task=task))  # type: ignore[arg-type]

    assert "natively and faster (trainer.precision=32-true turns it off)" in said(BF16, None)
    assert (said(BF16, BF16), said(FP32, None)) == (BF16, FP32)


def test_adamw_is_fused(compose: Compose) -> None:
    assert compose()["optimizer"]["fused"] is True
    assert compose("optimizer=sgd")["optimizer"]["fused"] is True


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama"])
def test_attention_is_torchs_own(kind: str, tiny: Tiny) -> None:
    backbone = HFText(str(tiny(kind)))
    assert backbone.model.config._attn_implementation == backbone.identity["attention"] == "sdpa"


def test_a_processor_is_timed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = []

    def gain() -> float:
        timed.append(True)
        return 1.5

    monkeypatch.setattr(precision, "gain", gain)
    monkeypatch.setenv("TL_LIGHTNING_CACHE", str(tmp_path))
    assert [precision.kept_gain("one"), precision.kept_gain("one")] == [1.5, 1.5]
    assert len(timed) == 1
    precision.kept_gain("other")
    assert len(timed) == 2, "a folder that two machines share"
    for damaged in ("{", "[1]", '{"one": null}'):
        (tmp_path / "hardware/bf16.json").write_text(damaged)
        assert precision.kept_gain("one") == 1.5
    assert len(timed) == 5
    monkeypatch.setenv("TL_LIGHTNING_CACHE", "/proc/nowhere")  # where nobody can write
    assert precision.kept_gain("one") == 1.5
    assert len(timed) == 6


def test_the_timing_tells_a_quicker_product_from_a_slower_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10_000))
    seconds = {torch.float32: 6, torch.bfloat16: 3}

    def linear(given: torch.Tensor, weight: torch.Tensor) -> None:
        for _ in range(seconds[given.dtype] - 1):
            next(clock)

    monkeypatch.setattr("torch.nn.functional.linear", linear)
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    assert precision.gain() == 2.0
