"""Many runs in this process: words as typed, a tiny model, an empty folder."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tl_lightning import bootstrap
from tl_lightning.__main__ import main
from tl_lightning.record import COMMAND

Multirun = Callable[..., int]


@pytest.fixture
def words(tiny: Callable[[str], Path], tmp_path: Path) -> list[str]:
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(60)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return [
        "backbone=hf_text",
        f"backbone.name={tiny('bert')}",
        "data=text_files",
        f"data.train={tmp_path / 'all.csv'}",
        "data.batch_size=16",
        "trainer=cpu",
        "trainer.precision=32-true",
        "trainer.max_epochs=1",
        "trainer.enable_progress_bar=false",
        "logger=csv",
        "name=mini",
    ]


@pytest.fixture
def multirun(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Multirun:
    """`python -m tl_lightning --multirun WORDS` in this process; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bootstrap, "FEWEST", 5)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 5)
    monkeypatch.delenv(COMMAND, raising=False)

    def multirun(*more: str) -> int:
        monkeypatch.setattr(sys, "argv", ["tl_lightning", "--multirun", *words, *more])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    return multirun
