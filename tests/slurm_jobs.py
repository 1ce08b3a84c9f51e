"""What the tests under SLURM train: long enough that a signal comes before the end."""

from collections.abc import Callable
from pathlib import Path

EPOCHS, STEPS = 20, 10  # 76 rows to train on, 8 in a global batch


def two_task_words(tiny: Callable[[str], Path], folder: Path) -> list[str]:
    """The words of a run of two processes on data that this writes into ``folder``."""
    rows = [f"{'good fine' if i % 2 else 'bad dull'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(96)]
    (folder / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    return [
        *("backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files", f"data.train={folder / 'all.csv'}"),
        *("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"trainer.max_epochs={EPOCHS}"),
        *("data.batch_size=4", "logger=csv", "name=mini"),
    ]
