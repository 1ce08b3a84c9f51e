"""What a strategy saves: a step of linear_probe and the peak memory of lora, each beside full fine-tuning.

    python experiments/speed/strategies.py [--rounds 9] [--output experiments/speed/strategies.json]

The pretrained MiniLM on the packaged reviews, as in step.py.  Both sides alternate A B A B in one call, after one round
of each that does not count; the ratio of medians counts.  Target: a step of linear_probe below 0.40 of a step of full,
the peak of lora below the peak of full.
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import peak_mib, write  # noqa: E402
from experiments.speed.step import MODEL, ours, parts, summary  # noqa: E402

EACH_TIME = "data.cache_features=null"  # a step of a probe, not of its head alone
STEP, MEMORY = ("full", "linear_probe"), ("full", "lora")


def step_times(rounds: int) -> dict[str, list[float]]:
    """Median seconds per step of each round."""
    found: dict[str, list[float]] = {name: [] for name in STEP}
    for number in range(rounds + 1):
        for name in STEP:
            value = statistics.median(ours(MODEL, f"strategy={name}", EACH_TIME))
            if number:
                found[name].append(value)
                print(f"step {number}/{rounds} {name}: {value * 1000:.1f} ms", flush=True)
    return found


def peaks(rounds: int) -> dict[str, list[float]]:
    """Peak MiB of a process of its own that trains one epoch."""
    found: dict[str, list[float]] = {name: [] for name in MEMORY}
    for number in range(rounds + 1):
        for name in MEMORY:
            command = [sys.executable, __file__, "--child", name]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
            if number:
                found[name].append(float(done.stdout.split()[-1]))
                print(f"memory {number}/{rounds} {name}: {found[name][-1]:.0f} MiB", flush=True)
    return found


def as_child(name: str) -> None:
    """Train one epoch; prints the peak as the last word."""
    import peft  # noqa: F401  # both sides import the same

    ours(MODEL, f"strategy={name}")
    print(peak_mib())


def table(results: dict[str, Any]) -> str:
    """The results as markdown."""
    rows = [
        ("step time, ms", *reversed(STEP), results["step"], 1000.0, "below 0.40"),
        ("peak memory, MiB", *reversed(MEMORY), results["memory"], 1.0, "below 1"),
    ]
    lines = [
        "| what | strategy | beside | it | full | ratio of medians | pairs, lowest to highest | target | n |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for what, name, beside, r, scale, target in rows:
        lines.append(
            f"| {what} | `{name}` | `{beside}` | {r['ours'] * scale:.1f} | {r['base'] * scale:.1f} |"
            f" **{r['ratio']:.3f}** | {r['lowest']:.3f} to {r['highest']:.3f} | {target} | {r['n']} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure both and write the results."""
    options = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    options.add_argument("--rounds", type=int, default=9)
    options.add_argument("--output", type=Path, default=HERE / "strategies.json")
    options.add_argument("--child", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.child:
        return as_child(given.child)
    with parts() as made:
        precision = str(made.trainer.precision)
    results = {
        "precision": precision,
        "memory": summary(peaks(given.rounds)),
        "step": summary(step_times(given.rounds)),
    }
    write(given.output, **results)
    print(table(results))
    return None


if __name__ == "__main__":
    main()
