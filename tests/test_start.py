"""What a start costs beside the work itself."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.slow
def test_a_sweep_imports_once(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    """Hydra's basic launcher runs all jobs in the process that has imported everything."""
    rows = [f"{'good' if i % 2 else 'bad'} film number {i},{'pos' if i % 2 else 'neg'}" for i in range(24)]
    (tmp_path / "all.csv").write_text("text,label\n" + "\n".join(rows) + "\n")
    words = [
        *("--multirun", "seed=0,1", "backbone=hf_text", f"backbone.name={tiny('bert')}", "data=text_files"),
        *(f"data.train={tmp_path}/all.csv", "trainer=cpu", "trainer.max_epochs=1", "logger=csv"),
        *("trainer.enable_progress_bar=false", f"hydra.sweep.dir={tmp_path}/sweep"),
    ]
    told = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}  # every process of the sweep would list its imports
    done = subprocess.run(
        [sys.executable, "-m", "tl_lightning", *words],
        env=told,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    imported = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert all(imported.count(name) == 1 for name in ("torch", "lightning.pytorch", "transformers", "tl_lightning.run"))
    assert all((tmp_path / f"sweep/{job}/predictions.parquet").is_file() for job in ("0", "1"))
