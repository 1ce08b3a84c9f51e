"""What a linear probe costs once features are kept: its epochs, a second start, many heads at once.

    python experiments/speed/probe.py [--data DIR] [--rounds 7] [--output experiments/speed/probe.json]

DIR holds train, val and test as .tsv or .csv (columns by --text and --label, as sentence and label); without it, the
packaged reviews.  The backbone is the pretrained MiniLM.  Three questions, each side in turn with the other, A B A B,
in one call, after one round that does not count; the ratio of medians counts.

- epochs: 20 epochs of a probe and its test, with no feature kept before, beside one forward pass of the backbone over
  train, val and test in the same batches.  Target: at most 1.3.
- heads: a fit of 13 learning rates at once beside a fit of one, features kept before.  Target: at most 1.5.
- start: seconds from the imports' end to the first training step of a second run, in a process of its own.
  Target: below 5.

The larger the backbone and the batch, the less the epochs weigh: both are told with the results.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import write  # noqa: E402
from experiments.speed.step import MODEL, configuration, summary  # noqa: E402

EPOCHS = 20
RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 1e-1, 2e-1, 5e-1, 1.0]
FEWEST_ROUNDS = 7
TARGETS = {"epochs": 1.3, "heads": 1.5, "start": 5.0}


def words_of(given: argparse.Namespace) -> list[str]:
    """What all runs have in common, as on the command line."""
    words = [MODEL, "strategy=linear_probe", f"data.batch_size={given.batch_size}", "optimizer.lr=1e-2"]
    words += ["trainer.limit_val_batches=1.0", f"trainer.max_epochs={EPOCHS}"]
    if given.data is None:
        return words
    files = [next(path for path in given.data.glob(f"{split}.[tc]sv")) for split in ("train", "val", "test")]
    named = [f"data.{file.stem}={file.absolute()}" for file in files]
    return [*words, "data=text_files", *named, f"data.text={given.text}", f"data.label={given.label}"]


@contextmanager
def made(*words: str) -> Iterator[Any]:
    """The parts of one run in a folder that goes away."""
    from tl_lightning.build import build
    from tl_lightning.check import check
    from tl_lightning.interrupt import StopAtStep
    from tl_lightning.quiet import quiet

    with tempfile.TemporaryDirectory() as folder, quiet():
        yield build(check(configuration(*words)), Path(folder), StopAtStep(), [])


def forward(words: list[str]) -> float:
    """Seconds of one pass over all splits."""
    import torch

    with made(*words) as parts:
        backbone, precision = parts.task.backbone.eval(), parts.trainer.precision_plugin
        start = time.perf_counter()
        with torch.no_grad(), precision.forward_context():
            for split in ("train", "val", "test"):
                for inputs, *_ in parts.data.whole_loader(split):
                    backbone(**inputs)
        return time.perf_counter() - start


def probe(words: list[str]) -> float:
    """Seconds of a fit and a test with an empty cache of features; texts are tokenised before."""
    with tempfile.TemporaryDirectory() as cache, made(*words, f"data.cache_dir={cache}") as parts:
        start = time.perf_counter()
        parts.trainer.fit(parts.task, datamodule=parts.data)
        parts.trainer.test(parts.task, datamodule=parts.data, ckpt_path=parts.best.best_model_path, verbose=False)
        return time.perf_counter() - start


def fit(words: list[str]) -> float:
    """Seconds of a fit on features that are kept already."""
    with made(*words) as parts:
        start = time.perf_counter()
        parts.trainer.fit(parts.task, datamodule=parts.data)
        return time.perf_counter() - start


def alternate(sides: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each side in turn, after a round that does not count."""
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, side in sides.items():
            value = side()
            if number:
                found[name].append(value)
                print(f"{name} {number}/{rounds}: {value:.3f} s", flush=True)
    return found


def second_start(words: list[str]) -> float:
    """Seconds from the imports' end to the first step, in a process of its own; features are kept already."""
    command = [sys.executable, __file__, "--child", json.dumps(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return float(done.stdout.split()[-1])


def as_child(words: list[str]) -> None:
    """One run up to its first step; prints the seconds as the last word."""
    from tl_lightning.check import check
    from tl_lightning.run import run
    from tl_lightning.throughput import Throughput

    config = check(configuration(*words))  # imports what it names
    start = time.time()

    def end(*_: Any) -> None:
        print(time.time() - start, flush=True)
        os._exit(0)

    Throughput.on_train_batch_start = end  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run(config, Path(folder) / "run")


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""
    lines = [
        "| what | it | ours | ratio of medians | pairs, lowest to highest | target | n |",
        "|---|---|---|---|---|---|---|",
    ]
    beside = {"epochs": f"{EPOCHS} epochs beside a forward pass, s", "heads": f"{len(RATES)} heads beside one, s"}
    for name, what in beside.items():
        r = results[name]
        lines.append(
            f"| {what} | {r['base']:.2f} | {r['ours']:.2f} | **{r['ratio']:.2f}** |"
            f" {r['lowest']:.2f} to {r['highest']:.2f} | {TARGETS[name]} | {r['n']} |"
        )
    seconds = results["start"]
    lines.append(
        f"| second start to first step, s | | {statistics.median(seconds):.2f} | |"
        f" {min(seconds):.2f} to {max(seconds):.2f} | {TARGETS['start']} | {len(seconds)} |"
    )
    return "\n".join(lines)


def measured(words: list[str], rounds: int) -> dict[str, Any]:
    """All three answers."""
    grid = f"head.lr_grid={RATES}".replace(" ", "")
    with tempfile.TemporaryDirectory() as cache:
        kept = [*words, f"data.cache_dir={cache}"]
        heads = alternate({"one": lambda: fit(kept), "many": lambda: fit([*kept, grid])}, rounds)
        starts = [second_start(kept) for _ in range(rounds)]
    epochs = alternate({"forward": lambda: forward(words), "probe": lambda: probe(words)}, rounds)
    return {"epochs": summary(epochs), "heads": summary(heads), "start": starts}


def trained(words: list[str]) -> dict[str, Any]:
    """Rows, precision and backbone, to read the results by."""
    with made(*words) as parts:
        rows, batch = parts.data.summary["rows"], parts.data.batch_size
        return {"rows": rows, "batch_size": batch, "precision": str(parts.trainer.precision), "backbone": MODEL}


def main() -> None:
    """Measure everything and write the results."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--data", type=Path)
    options.add_argument("--text", default="sentence")
    options.add_argument("--label", default="label")
    options.add_argument("--batch-size", type=int, default=256)
    options.add_argument("--rounds", type=int, default=FEWEST_ROUNDS)
    options.add_argument("--output", type=Path, default=HERE / "probe.json")
    options.add_argument("--child", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        return as_child(json.loads(given.child))
    if given.rounds < FEWEST_ROUNDS:
        options.error(f"--rounds {given.rounds}: at least {FEWEST_ROUNDS} are needed for a median that holds")
    words = words_of(given)
    results = {**trained(words), **measured(words, given.rounds)}
    write(given.output, **results)
    print(table(results))
    return None


if __name__ == "__main__":
    main()
