"""Which precision a run gets where none is named, and what makes its products quick."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tl_lightning import build
from tl_lightning.backbones import HFText

Compose = Callable[..., dict[str, Any]]
Tiny = Callable[[str], Path]
BF16, FP32 = "bf16-mixed", "32-true"


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine with or without a GPU, whose GPU and processor multiply bfloat16 natively or not."""

    def hardware(gpu: bool = False, gpu_able: bool = False, cpu_able: bool = False, apple: bool = False) -> None:
        def supported(including_emulation: bool = True) -> bool:
            return gpu and (gpu_able or including_emulation)

        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": cpu_able, "amx_bf16": False})

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
        ({}, "auto", FP32),
        ({"apple": True, "cpu_able": True}, "auto", FP32),
        ({"cpu_able": True}, "tpu", FP32),
    ],
)
def test_bf16_where_the_hardware_does_it_natively(
    machine: dict[str, bool], accelerator: str, expected: str, hardware: Callable[..., None]
) -> None:
    hardware(**machine)
    assert build.native_precision(accelerator) == expected


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

    assert "natively (trainer.precision=32-true turns it off)" in said(BF16, None)
    assert (said(BF16, BF16), said(FP32, None)) == (BF16, FP32)


def test_adamw_is_fused(compose: Compose) -> None:
    assert compose()["optimizer"]["fused"] is True
    assert compose("optimizer=sgd")["optimizer"]["fused"] is True


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "modernbert", "gpt2", "llama"])
def test_attention_is_torchs_own(kind: str, tiny: Tiny) -> None:
    backbone = HFText(str(tiny(kind)))
    assert backbone.model.config._attn_implementation == backbone.identity["attention"] == "sdpa"
