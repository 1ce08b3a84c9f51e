"""Does `compare` keep its promises?  Simulated studies with a known truth.

    python experiments/comparison_validity/simulate.py ordinary --studies 2000    # about ten minutes
    python experiments/comparison_validity/simulate.py extreme --studies 1000     # few examples, values near 1
    python experiments/comparison_validity/simulate.py tables                     # of the README, from results.json

Each study has groups of S seeds tested on the same N examples.  An example is answered rightly where

    margin + difficulty(example) + taste(group, example) + skill(group, seed) +- bias(group, seed) + noise > 0

so predictions of all runs correlate through the difficulty, seeds of a group through taste, and a seed shifts
all of a run's answers (bias: towards one class).  Three in ten examples are positive.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, stdtr

from tl_lightning.example_interval import imbalance
from tl_lightning.metric_scales import Bounds, scale_of
from tl_lightning.record import write_json
from tl_lightning.studies.levels import half_widths
from tl_lightning.studies.outcomes import Array, Outcomes
from tl_lightning.studies.resampling import draws
from tl_lightning.studies.scoring import SCORERS, Weighted
from tl_lightning.studies.spread import Arm, Contrast, contrasts, example_interval, seed_interval, sources

RESULTS = Path(__file__).with_name("results.json")
METRICS = ("accuracy", "f1")
POSITIVE = 0.3
RESAMPLES = 300
TRUTH_DRAWS = 400_000
ALPHA = 0.05


@dataclass(frozen=True)
class Setting:
    """One kind of study; the deviations are in units of the noise.  With the effect one margin is so much larger."""

    seeds: int
    examples: int
    seed_sd: float
    difficulty_sd: float = 1.0
    taste_sd: float = 0.5
    margin: float = 1.5
    effect: float = 0.25


def settings() -> list[Setting]:
    """Ordinary ones: a grid, four corners (hardly and strongly correlated runs, no taste and much of it), two seeds."""
    grid = [Setting(*cell) for cell in product((3, 5, 10), (200, 1000), (0.0, 0.1, 0.3))]
    corners = [(0.0, 0.0), (2.0, 0.0), (0.0, 1.0), (2.0, 1.0)]
    return [*grid, *(Setting(3, 1000, 0.1, *corner) for corner in corners), Setting(2, 1000, 0.1)]


def extremes() -> list[Setting]:
    """Few examples, and accuracies near 1 (0.95, 0.99 and 0.999), with two to ten seeds."""
    few = [Setting(seeds, examples, 0.1, effect=0.75) for seeds, examples in product((2, 3, 10), (5, 20))]
    near = ((2.5, 0.75), (3.5, 1.0), (4.63, 1.0))
    shapes = [(2, 50), (3, 50), (10, 50), (5, 200), (2, 1000), (3, 1000), (10, 1000)]
    return few + [Setting(*shape, 0.1, margin=m, effect=e) for (m, e), shape in product(near, shapes)]


@dataclass(frozen=True)
class Group:
    """The outcomes of a group's seeds, and the true values that its intervals are for.

    ``of_examples``: by metric, what is expected of each seed on endlessly many examples, (S,).
    ``of_seeds``: the accuracy that is expected of a new seed on these examples.
    """

    runs: list[Outcomes]
    of_examples: dict[str, Array]
    of_seeds: float


def study(setting: Setting, margins: Sequence[float], chance: np.random.Generator) -> list[Group]:
    """The groups of one study, one for each margin."""
    s, n = setting, setting.examples
    target = (chance.random(n) < POSITIVE).astype(int)
    shared = chance.normal(0, s.difficulty_sd, n)
    groups = []
    for margin in margins:
        certain = margin + shared + chance.normal(0, s.taste_sd, n)
        skill, bias = chance.normal(0, s.seed_sd, (2, s.seeds, 1))
        right = certain + chance.normal(0, 1, (s.seeds, n)) + skill + bias * (2 * target - 1) > 0
        runs = [_outcomes(target, np.where(row, target, 1 - target)) for row in right]
        of_seeds = float(ndtr(certain / np.sqrt(1 + 2 * s.seed_sd**2)).mean())
        groups.append(Group(runs, expected(s, margin, skill[:, 0], bias[:, 0]), of_seeds))
    return groups


def _outcomes(target: Array, predicted: Array) -> Outcomes:
    return Outcomes(Path(), "class", ("no", "yes"), np.arange(len(target)), target, predicted, np.zeros(len(target)))


def expected(setting: Setting, margin: float, skill: Array, bias: Array) -> dict[str, Array]:
    """Metrics of seeds on endlessly many examples, by their skill and bias (S,)."""
    scale = np.sqrt(1 + setting.difficulty_sd**2 + setting.taste_sd**2)
    yes, no = ndtr((margin + skill + bias) / scale), ndtr((margin + skill - bias) / scale)
    tp, tn = POSITIVE * yes, (1 - POSITIVE) * no
    fn, fp = POSITIVE - tp, 1 - POSITIVE - tn
    return {"accuracy": tp + tn, "f1": tp / (2 * tp + fp + fn) + tn / (2 * tn + fp + fn)}


def truth(setting: Setting, margin: float) -> dict[str, float]:
    """Metrics that are expected of a new seed on endlessly many examples."""
    skill, bias = np.random.default_rng(0).normal(0, setting.seed_sd, (2, TRUTH_DRAWS))
    return {metric: float(values.mean()) for metric, values in expected(setting, margin, skill, bias).items()}


def arm(group: Group, metric: str, weights: Sequence[Array]) -> Arm:
    """The repetitions of a group, on all examples and in each resample."""
    scorer = SCORERS["class"][metric]
    values, drawn = (np.array([scorer(Weighted(run, w)) for run in group.runs]) for w in weights)
    return Arm(values[:, 0], drawn)


def holds(interval: Bounds | None, true: float) -> float:
    """Whether an interval holds the truth; NaN where there is none."""
    return float("nan") if interval is None else float(interval[0] <= true <= interval[1])


def tests(differences: Arm, paired: Contrast, unpaired: Contrast, examples: int, true: float) -> dict[str, float]:
    """Whether each way to test rejects, and whether the intervals hold the true difference."""
    parts, degrees = sources([differences], examples)
    cochran, satterthwaite = half_widths(np.array(parts), np.array(degrees), ALPHA)
    d, seeds = abs(differences.mean), len(differences.values)
    drawn = float(differences.draws.mean(axis=0).std(ddof=1))
    over_seeds = 2 * stdtr(seeds - 1, -d / max(np.sqrt(differences.seed_variance()), 1e-12))
    found = {
        "compare": paired.p < ALPHA,
        "covers": holds(paired.interval, true),
        "unpaired": unpaired.p < ALPHA,
        "unpaired_covers": holds(unpaired.interval, true),
        "cochran": d > cochran,
        "satterthwaite": d > satterthwaite,
        "t_over_seeds": over_seeds < ALPHA,
        "bootstrap_over_examples": d > 1.96 * drawn,
    }
    return {name: float(value) for name, value in found.items()}


def means(one: Arm, group: Group, metric: str) -> dict[str, float]:
    """Whether the intervals of a group's mean and of its first run hold the truth; beside them a plain bootstrap."""
    scale, first = scale_of(metric), Arm(one.values[:1], one.draws[:1])
    n, true = len(group.runs[0]), group.of_examples[metric]
    uneven = imbalance(group.runs[0].class_counts, n)
    over_seeds, over_examples = seed_interval(one, scale, n), example_interval(one, scale, n, uneven)
    of_run = example_interval(first, scale, n, uneven)
    plain = np.quantile(first.draws[0], [ALPHA / 2, 1 - ALPHA / 2])
    return {
        "seeds_hold": holds(over_seeds, group.of_seeds) if metric == "accuracy" else float("nan"),
        "examples_hold": holds(over_examples, float(true.mean())),
        "run_holds": holds(of_run, float(true[0])),
        "plain_of_run_holds": holds((plain[0], plain[1]), float(true[0])),
    }


def simulate(setting: Setting, studies: int, seed: int = 0) -> dict[float, dict[str, dict[str, float]]]:
    """By effect (none, and that of the setting) and metric: how often each test rejects and each interval is right.

    The groups of a study are one to compare with, one as good, and one that is better.
    """
    n = setting.examples
    chance = np.random.default_rng([seed, *(round(1000 * value) for value in asdict(setting).values())])
    weights = [np.ones((1, n)), np.concatenate(list(draws(n, RESAMPLES)))]
    three: dict[str, list[list[Arm]]] = {metric: [] for metric in METRICS}
    held: dict[str, list[dict[str, float]]] = {metric: [] for metric in METRICS}
    for _ in range(studies):
        groups = study(setting, (setting.margin, setting.margin, setting.margin + setting.effect), chance)
        for metric in METRICS:
            three[metric].append([arm(group, metric, weights) for group in groups])
            held[metric].append(means(three[metric][-1][0], groups[0], metric))
    return {
        effect: {metric: _shares(setting, effect, metric, three[metric], held[metric]) for metric in METRICS}
        for effect in (0.0, setting.effect)
    }


def _shares(
    setting: Setting, effect: float, metric: str, three: Sequence[Sequence[Arm]], held: Sequence[dict[str, float]]
) -> dict[str, float]:
    """Means over those studies that have an interval."""
    true, better = (truth(setting, setting.margin + more)[metric] for more in (0.0, effect))
    pairs = [(arms[2 if effect else 1], arms[0]) for arms in three]
    rows = [a | b for a, b in zip(compared(pairs, metric, setting.examples, better - true), held, strict=True)]
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    shares = {name: float(c[~np.isnan(c)].mean()) for name, c in columns.items() if not np.isnan(c).all()}
    return {"true_value": true, "true_difference": better - true, **shares}


def compared(both: Sequence[tuple[Arm, Arm]], metric: str, examples: int, true: float) -> Iterator[dict[str, float]]:
    """The tests of each study; all are compared at once, which is fast."""
    differences, scale = [one.minus(other) for one, other in both], scale_of(metric)
    paired = contrasts([[difference] for difference in differences], examples, scale)
    unpaired = contrasts([[one, other.negative()] for one, other in both], examples, scale)
    for difference, a, b in zip(differences, paired, unpaired, strict=True):
        yield tests(difference, a, b, examples, true)


def cells(listed: Sequence[Setting], studies: int) -> Iterator[dict[str, Any]]:
    """One row for each setting, effect and metric."""
    for setting in listed:
        start = time.time()
        for effect, by_metric in simulate(setting, studies).items():
            for metric, shares in by_metric.items():
                yield {**asdict(setting), "effect": effect, "metric": metric, **shares}
        print(f"{setting}: {time.time() - start:.0f} s", flush=True)


def pairs(results: dict[str, Any], kind: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The rows of each setting and metric, without and with the effect."""
    rows = results[kind]["rows"]
    return [(a, b) for a, b in zip(rows, rows[len(METRICS) :], strict=False) if b["effect"] and not a["effect"]]


def _table(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---:"] * len(heading), *lines))


def _said(row: dict[str, Any], *names: str) -> list[str]:
    return [f"{100 * row[name]:.1f}" if name in row else "" for name in names]


OTHERS = ("cochran", "satterthwaite", "t_over_seeds", "bootstrap_over_examples")


def ordinary_table(results: dict[str, Any]) -> str:
    """A line for each setting and metric: in percent, level and coverage (under the null and the effect), and power."""
    heading = ["S", "N", "seed", "difficulty", "taste", "metric", "level", "coverage", "power", "level, unpaired",
               "Cochran", "Satterthwaite", "t over seeds", "bootstrap over examples"]  # fmt: skip
    lines = []
    for null, real in pairs(results, "ordinary"):
        setting = [f"{null[k]:g}" for k in ("seeds", "examples", "seed_sd", "difficulty_sd", "taste_sd")]
        told = [*_said(null, "compare"), *_said(real, "covers", "compare"), *_said(null, "unpaired", *OTHERS)]
        lines.append([*setting, null["metric"], *told])
    return _table(heading, lines)


def extreme_table(results: dict[str, Any]) -> str:
    """The same for few examples and values near 1."""
    heading = ["S", "N", "metric", "value", "level", "coverage", "power", "level, unpaired", "t over seeds",
               "bootstrap over examples"]  # fmt: skip
    lines = []
    for null, real in pairs(results, "extreme"):
        setting = [f"{null['seeds']}", f"{null['examples']}", null["metric"], f"{null['true_value']:.4f}"]
        told = [*_said(null, "compare"), *_said(real, "covers", "compare"), *_said(null, "unpaired", *OTHERS[2:])]
        lines.append([*setting, *told])
    return _table(heading, lines)


def means_table(results: dict[str, Any]) -> str:
    """The coverage of the intervals of a group's mean and of a single run, in percent."""
    heading = ["S", "N", "seed", "metric", "value", "over seeds", "over test examples", "one run",
               "one run, plain bootstrap"]  # fmt: skip
    lines = []
    for null, _ in [*pairs(results, "ordinary"), *pairs(results, "extreme")]:
        setting = [f"{null[k]:g}" for k in ("seeds", "examples", "seed_sd")]
        told = _said(null, "seeds_hold", "examples_hold", "run_holds", "plain_of_run_holds")
        lines.append([*setting, null["metric"], f"{null['true_value']:.4f}", *told])
    return _table(heading, lines)


def spans(results: dict[str, Any]) -> str:
    """The least and the largest of every share, in percent, for the README's verdict."""
    lines = []
    for kind in ("ordinary", "extreme"):
        rows = results[kind]["rows"]
        null, real = ([row for row in rows if bool(row["effect"]) is found] for found in (False, True))
        told = {
            "level": _span(null, "compare"),
            "coverage": _span(rows, "covers"),
            "unpaired": f"{_span(null, 'unpaired')} and {_span(rows, 'unpaired_covers')}",
            **{name.replace("_", " "): _span(null, name) for name in OTHERS},
            "coverage of a mean over seeds": _span(null, "seeds_hold"),
            "over test examples": _span(null, "examples_hold"),
            "of one run": _span(null, "run_holds"),
            "of one run by a plain bootstrap": _span(null, "plain_of_run_holds"),
            "power": _span(real, "compare"),
        }
        lines.append(f"- {kind}: " + "; ".join(f"{name} {span}" for name, span in told.items()) + ".")
    return "\n".join(lines)


def _span(rows: Sequence[dict[str, Any]], name: str) -> str:
    shares = [100 * row[name] for row in rows if name in row]
    return f"{min(shares):.1f} to {max(shares):.1f}"


def said_of(results: dict[str, Any], kind: str) -> str:
    """When, how and with what a kind of results was made, in a line."""
    made = results[kind]["made"]
    return (
        f"{made['date']}, commit {made['commit']}, `{made['command']}`: {made['studies']:,} studies a setting, Python"
        f" {made['python']}, numpy {made['numpy']} on CPU, {made['minutes']} minutes."
    )


def _made(begun: float, kind: str, studies: int) -> dict[str, Any]:
    words = ["git", "rev-parse", "--short=10", "HEAD"]
    commit = subprocess.run(words, capture_output=True, text=True, check=True, cwd=RESULTS.parent).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d"),
        "commit": commit,
        "command": f"python experiments/comparison_validity/simulate.py {kind} --studies {studies}",
        "studies": studies,
        "minutes": round((time.time() - begun) / 60),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def main() -> None:
    """Simulate one kind of studies and write it into results.json, or print the README's tables from there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["ordinary", "extreme", "tables"])
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--output", type=Path, default=RESULTS)
    asked = parser.parse_args()
    results = json.loads(asked.output.read_text()) if asked.output.exists() else {}
    if asked.what == "tables":
        lines = [said_of(results, kind) for kind in results]
        print(*lines, *(of(results) for of in (spans, ordinary_table, extreme_table, means_table)), sep="\n\n")
        return
    begun = time.time()
    rows = list(cells(settings() if asked.what == "ordinary" else extremes(), asked.studies))
    write_json(asked.output, {**results, asked.what: {"made": _made(begun, asked.what, asked.studies), "rows": rows}})


if __name__ == "__main__":
    main()
