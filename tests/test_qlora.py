"""QLoRA is refused where it cannot run; where bitsandbytes is, four bits train, store and come back on a CPU too."""

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from tests.adapted import QUIET, Tiny, fit, loader, logits, task, trainer
from tl_lightning.errors import UserError
from tl_lightning.strategies import QLoRA, adapters

pytestmark = [pytest.mark.filterwarnings(*QUIET)]


def test_without_bitsandbytes_or_a_gpu_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    with pytest.raises(UserError, match=r"needs bitsandbytes.* pip install 'tl_lightning\[qlora\]'"):
        QLoRA()
    monkeypatch.setattr(adapters, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"on a CUDA GPU, and there is none: take strategy=lora"):
        QLoRA()


def _made(monkeypatch: pytest.MonkeyPatch, targets: list[str] | None) -> QLoRA:
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        return QLoRA(r=2, targets=targets)


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="needs the extra qlora")
@pytest.mark.filterwarnings("ignore")  # of bitsandbytes, on a CPU
@pytest.mark.parametrize("targets", [None, ["q_proj"]])
def test_four_bits_train_and_come_back(
    targets: list[str] | None, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its layout for a CPU's inference does not come back into training; a GPU has none.
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    plain = logits(task("wide_vit", tiny, _made(monkeypatch, targets)))
    made = task("wide_vit", tiny, _made(monkeypatch, targets))
    used = fit(made)
    small = [name for name, p in made.named_parameters() if p.dtype == torch.uint8]
    assert len(small) == 12, "all linear layers, adapted or not"
    assert not torch.allclose(logits(made), plain, atol=1e-2)
    used.save_checkpoint(tmp_path / "x.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "x.ckpt", weights_only=True)["state_dict"]
    assert all("lora_" in name or name.startswith("head.") for name in stored)
    fresh = task("wide_vit", tiny, _made(monkeypatch, targets))
    trainer().test(fresh, loader(fresh), ckpt_path=tmp_path / "x.ckpt", verbose=False, weights_only=True)
    torch.testing.assert_close(logits(fresh), logits(made))
    used.test(made, loader(made), ckpt_path=tmp_path / "x.ckpt", verbose=False, weights_only=True)
    torch.testing.assert_close(logits(fresh), logits(made))
