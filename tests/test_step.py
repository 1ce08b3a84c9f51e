"""What a training step leaves undone: no device is waited for between two log steps."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode

from tl_lightning import finite
from tl_lightning.backbones import HFText, text
from tl_lightning.build import build
from tl_lightning.interrupt import StopAtStep
from tl_lightning.quiet import quiet

Compose = Callable[..., dict[str, Any]]
Tiny = Callable[[str], Path]
EVERY, BATCHES = 3, 8
READS = ("tolist", "cpu", "numpy")


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts, by the number of the step, how often the host asks for a value, which on a GPU means waiting for it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.step, self.found = 0, Counter[int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found[self.step] += func is torch.ops.aten._local_scalar_dense.default  # item, float, bool, int
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    reads = Reads()

    def counting(name: str) -> Any:
        plain = getattr(torch.Tensor, name)

        def method(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            reads.found[reads.step] += 1
            return plain(self, *args, **kwargs)

        return method

    for name in READS:  # on a CPU these do not come to the dispatcher
        monkeypatch.setattr(torch.Tensor, name, counting(name))
    with reads:
        yield reads


class Number(Callback):
    """Tells the steps apart: what lies between one batch's start and the next one's is one step, from 1."""

    def __init__(self, reads: Reads) -> None:
        self.reads = reads

    def on_train_batch_start(self, *_: Any) -> None:
        self.reads.step += 1

    def on_train_epoch_end(self, *_: Any) -> None:
        self.reads.step = 0


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finite, "waits", lambda optimizer: True)
    monkeypatch.setattr(text, "waited_for", lambda values: True)


@pytest.mark.usefixtures("as_on_a_gpu")
@pytest.mark.parametrize("bar", [True, False], ids=["with a bar", "without"])
def test_values_are_read_at_log_steps_only(
    bar: bool, compose: Compose, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    config = compose(
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=reviews", "logger=csv", "trainer=cpu"),
        *("data.max_length=64", "data.batch_size=4", f"trainer.log_every_n_steps={EVERY}", "trainer.max_epochs=1"),
        *(f"trainer.limit_train_batches={BATCHES}", "trainer.limit_val_batches=0"),
        f"trainer.enable_progress_bar={str(bar).lower()}",
    )
    with quiet(), counted(monkeypatch) as reads:
        made = build(config, tmp_path, StopAtStep(), [])
        made.trainer.callbacks.insert(0, Number(reads))  # type: ignore[attr-defined]
        reads.found.clear()
        made.trainer.fit(made.task, datamodule=made.data)
    log_steps = {step for step in range(1, BATCHES + 1) if step % EVERY == 0}
    assert {step for step in reads.found if step and reads.found[step]} - {BATCHES} == log_steps
    rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert [int(row.split(",")[0]) + 1 for row in rows if "train/loss" in row] == sorted(log_steps)
    last = capsys.readouterr().out.rpartition("\r")[2]
    assert bool(re.search(rf"{BATCHES}/{BATCHES} .*train/loss=\d", last)) is bar


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
@pytest.mark.parametrize("padded", [True, False])
def test_a_mask_that_nobody_asks_about_gives_the_same_features(
    kind: str, padded: bool, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = HFText(str(tiny(kind))).eval()
    mask = torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0 if padded else 1
    inputs = {"input_ids": torch.randint(5, 15, (2, 7)), "attention_mask": mask}
    asked = backbone(**inputs)
    monkeypatch.setattr(text, "waited_for", lambda values: True)
    with counted(monkeypatch) as reads:
        unasked = backbone(**inputs)
    assert not reads.found.total()
    torch.testing.assert_close(unasked, asked, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama", "modernbert", "deberta"])
def test_other_attentions_keep_their_own_masks(kind: str, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = HFText(str(tiny(kind))).eval()
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    inputs = {"input_ids": torch.randint(5, 15, (2, 4)), "attention_mask": mask}
    asked = backbone(**inputs)
    monkeypatch.setattr(text, "waited_for", lambda values: True)
    assert torch.equal(backbone(**inputs), asked)
