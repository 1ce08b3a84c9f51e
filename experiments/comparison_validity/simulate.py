"""Does `compare` keep its promises?  Simulated studies with a known truth.

    python experiments/comparison_validity/simulate.py                  # 2,000 studies a setting: about an hour
    python experiments/comparison_validity/simulate.py --studies 200    # a look

Each study has two groups of S seeds tested on the same N examples.  An example is answered rightly where

    margin + difficulty(example) + taste(group, example) + skill(group, seed) +- bias(group, seed) + noise > 0

so predictions of all runs correlate through the difficulty, seeds of a group through taste, and a seed shifts
all of a run's answers (bias: towards one class).  Three in ten examples are positive.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr

from tl_lightning.record import write_json
from tl_lightning.studies.levels import half_widths
from tl_lightning.studies.outcomes import Array, Outcomes
from tl_lightning.studies.resampling import draws
from tl_lightning.studies.scoring import SCORERS, Weighted
from tl_lightning.studies.spread import Arm, contrasts, sources

RESULTS = Path(__file__).with_name("results.json")
METRICS = ("accuracy", "f1")
POSITIVE = 0.3
MARGIN, EFFECT = 1.5, 0.25
RESAMPLES = 300
TRUTH_DRAWS = 400_000
ALPHA = 0.05


@dataclass(frozen=True)
class Setting:
    """One kind of study; the deviations are in units of the noise."""

    seeds: int
    examples: int
    seed_sd: float
    difficulty_sd: float = 1.0
    taste_sd: float = 0.5


def settings() -> list[Setting]:
    """The grid, four corners (hardly and strongly correlated runs, no taste and much of it), and two seeds."""
    grid = [Setting(*cell) for cell in product((3, 5, 10), (200, 1000), (0.0, 0.1, 0.3))]
    corners = [(0.0, 0.0), (2.0, 0.0), (0.0, 1.0), (2.0, 1.0)]
    return [*grid, *(Setting(3, 1000, 0.1, *corner) for corner in corners), Setting(2, 1000, 0.1)]


def study(setting: Setting, margins: tuple[float, float], chance: np.random.Generator) -> list[list[Outcomes]]:
    """The outcomes of both groups, a list of seeds each."""
    s, n = setting, setting.examples
    target = (chance.random(n) < POSITIVE).astype(int)
    shared = chance.normal(0, s.difficulty_sd, n)
    groups = []
    for margin in margins:
        z = margin + shared + chance.normal(0, s.taste_sd, n) + chance.normal(0, 1, (s.seeds, n))
        skill, bias = chance.normal(0, s.seed_sd, (2, s.seeds, 1))
        right = z + skill + bias * (2 * target - 1) > 0
        groups.append([_outcomes(target, np.where(row, target, 1 - target)) for row in right])
    return groups


def _outcomes(target: Array, predicted: Array) -> Outcomes:
    return Outcomes(Path(), "class", ("no", "yes"), np.arange(len(target)), target, predicted, np.zeros(len(target)))


def truth(setting: Setting, margin: float, metric: str) -> float:
    """The metric that is expected of a new seed on endlessly many examples."""
    chance = np.random.default_rng(0)
    scale = np.sqrt(1 + setting.difficulty_sd**2 + setting.taste_sd**2)
    skill, bias = chance.normal(0, setting.seed_sd, (2, TRUTH_DRAWS))
    yes, no = ndtr((margin + skill + bias) / scale), ndtr((margin + skill - bias) / scale)
    tp, tn = POSITIVE * yes, (1 - POSITIVE) * no
    fn, fp = POSITIVE - tp, 1 - POSITIVE - tn
    by_metric = {"accuracy": tp + tn, "f1": tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn)}
    return float(by_metric[metric].mean())


def arms(groups: list[list[Outcomes]], metric: str, weights: list[Array]) -> list[Arm]:
    """The repetitions of both groups."""
    scorer = SCORERS["class"][metric]
    values, drawn = (np.array([[scorer(Weighted(run, w)) for run in group] for group in groups]) for w in weights)
    return [Arm(value[:, 0], many) for value, many in zip(values, drawn, strict=True)]


def tests(one: Arm, other: Arm, examples: int, true: float) -> dict[str, bool]:
    """Whether each way to test rejects, and whether the intervals hold the true difference."""
    differences = one.minus(other)
    paired, unpaired = contrasts([[differences]], examples) + contrasts([[one, other.negative()]], examples)
    parts, degrees = sources([differences], examples)
    cochran, satterthwaite = half_widths(np.array(parts), np.array(degrees), ALPHA)
    d, seeds = abs(differences.mean), len(differences.values)
    drawn = float(differences.draws.mean(axis=0).std(ddof=1))
    over_seeds = 2 * stdtr(seeds - 1, -d / max(np.sqrt(differences.seed_variance), 1e-12))
    return {
        "compare": paired.p < ALPHA,
        "covers": paired.interval[0] <= true <= paired.interval[1],
        "unpaired": unpaired.p < ALPHA,
        "unpaired_covers": unpaired.interval[0] <= true <= unpaired.interval[1],
        "cochran": bool(d > cochran),
        "satterthwaite": bool(d > satterthwaite),
        "t_over_seeds": bool(over_seeds < ALPHA),
        "bootstrap_over_examples": bool(d > 1.96 * drawn),
    }


def simulate(setting: Setting, effect: float, studies: int, seed: int = 0) -> dict[str, dict[str, float]]:
    """By metric: the share of studies in which each test rejects, and in which the interval covers the truth."""
    chance = np.random.default_rng([seed, *(round(1000 * value) for value in (*asdict(setting).values(), effect))])
    margins = (MARGIN + effect, MARGIN)
    true = {m: truth(setting, margins[0], m) - truth(setting, margins[1], m) for m in METRICS}
    weights = [np.ones((1, setting.examples)), np.concatenate(list(draws(setting.examples, RESAMPLES)))]
    found: dict[str, list[dict[str, bool]]] = {metric: [] for metric in METRICS}
    for _ in range(studies):
        groups = study(setting, margins, chance)
        for metric in METRICS:
            one, other = arms(groups, metric, weights)
            found[metric].append(tests(one, other, setting.examples, true[metric]))
    return {
        metric: {"true_difference": true[metric], **{k: float(np.mean([r[k] for r in rows])) for k in rows[0]}}
        for metric, rows in found.items()
    }


def cells(studies: int) -> Iterator[dict[str, Any]]:
    """One row for each setting, effect and metric."""
    for setting in settings():
        for effect in (0.0, EFFECT):
            start = time.time()
            for metric, shares in simulate(setting, effect, studies).items():
                yield {**asdict(setting), "effect": effect, "metric": metric, "studies": studies, **shares}
            print(f"{setting} effect={effect}: {time.time() - start:.0f} s", flush=True)


def table(rows: list[dict[str, Any]]) -> str:
    """A line for each setting and metric: in percent, level and coverage (under the null and the effect), and power."""
    heading = ["S", "N", "seed", "difficulty", "taste", "metric", "level", "coverage", "power", "level, unpaired",
               "Cochran", "Satterthwaite", "t over seeds", "bootstrap over examples"]  # fmt: skip
    lines = [heading, ["---:"] * len(heading)]
    for null, real in zip(rows, rows[len(METRICS) :], strict=False):
        if null["effect"] or not real["effect"]:
            continue
        setting = [f"{null[k]:g}" for k in ("seeds", "examples", "seed_sd", "difficulty_sd", "taste_sd")]
        others = ("unpaired", "cochran", "satterthwaite", "t_over_seeds", "bootstrap_over_examples")
        shares = [null["compare"], real["covers"], real["compare"], *(null[k] for k in others)]
        lines.append([*setting, null["metric"], *(f"{100 * share:.1f}" for share in shares)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Simulate everything and write results.json after each row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="print the table of what is there, for the README")
    asked = parser.parse_args()
    if asked.table:
        print(table(json.loads(asked.output.read_text())))
        return
    rows: list[dict[str, Any]] = []
    for row in cells(asked.studies):
        rows.append(row)
        write_json(asked.output, rows)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
