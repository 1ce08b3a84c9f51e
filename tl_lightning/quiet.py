"""What does not belong on the screen of a run."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

EXPECTED = (  # warnings of Lightning's that do not apply here
    r".*does not have many workers.*",  # batches come from a memory-mapped cache: workers only cost (measured)
    r".*module\(s\) in eval mode at the start of training.*",  # frozen means eval mode: the strategy sets it
    r"Checkpoint directory .* exists and is not empty.*",  # a resume goes on in its own directory
    r"It is recommended to use `self\.log\('(train|val|test|heads)/.*sync_dist=True.*",  # they are means already
    r".*isinstance\(treespec, LeafSpec\).*",  # between Lightning and a newer torch
)
NO_JOB = r"The `srun` command is available.*"  # on a cluster's login node: right in a job, which srun must start
CHATTY = ("httpx", "httpx2", "filelock")  # one line for each request


@contextmanager
def without_bar(trainer: Any) -> Iterator[None]:
    """The test takes seconds; its bar would print a second table of the metrics."""
    bar = trainer.progress_bar_callback
    if bar is not None:
        bar.disable()
    try:
        yield
    finally:
        if bar is not None:
            bar.enable()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's tips and advice that does not apply here off the screen."""
    tips, lightning = (logging.getLogger(f"lightning.pytorch{name}") for name in (".utilities.rank_zero", ""))
    level, propagate = tips.level, lightning.propagate
    tips.setLevel(logging.WARNING)
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    lightning.propagate = False  # it prints by itself; Hydra's handler would print the same again
    try:
        with warnings.catch_warnings():
            for message in EXPECTED if "SLURM_JOB_ID" in os.environ else (*EXPECTED, NO_JOB):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        tips.setLevel(level)
        lightning.propagate = propagate
