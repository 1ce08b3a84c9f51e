"""A study: groups of runs on one or several test sets, with their spreads and differences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from types import MappingProxyType

from tl_lightning.errors import UserError
from tl_lightning.metric_scales import Bounds, Scale, scale_of
from tl_lightning.studies import comparable
from tl_lightning.studies.choosing import chosen
from tl_lightning.studies.finding import run_folders
from tl_lightning.studies.grouping import Group, Grouping, grouped
from tl_lightning.studies.levels import holm
from tl_lightning.studies.measuring import Measured, measured
from tl_lightning.studies.reading import Run, read_runs
from tl_lightning.studies.spread import Arm, Contrast, contrasts, example_interval, seed_interval
from tl_lightning.values import LOWER_IS_BETTER


@dataclass(frozen=True)
class Pair:
    """Two groups and their difference, the better one first; ``p`` is Holm's over all pairs of a test set."""

    better: str
    worse: str
    contrast: Contrast
    p: float
    paired: bool


@dataclass
class TestSet:
    """What was measured on one test set."""

    __test__ = False  # for pytest, which takes it for one of its own

    name: str
    measured: Measured
    groups: dict[str, Group]
    arms: dict[str, dict[str, Arm]]  # metric -> group -> repetitions, the best group first
    pairs: dict[str, list[Pair]] = field(default_factory=dict)  # metric -> all pairs

    @property
    def examples(self) -> int:
        """How many test examples there are."""
        return self.measured.examples

    def scale(self, metric: str) -> Scale:
        """What is known of a metric here."""
        return scale_of(metric, self.measured.values[metric])

    def over_seeds(self, metric: str, label: str) -> Bounds | None:
        """The 95% interval of a group's mean over seeds."""
        return seed_interval(self.arms[metric][label], self.scale(metric), self.examples)

    def over_examples(self, metric: str, label: str) -> Bounds | None:
        """The 95% interval over test examples of a group's mean."""
        found = self.measured
        return example_interval(self.arms[metric][label], self.scale(metric), found.examples, found.imbalance)


@dataclass
class Study:
    """All of it."""

    runs: list[Run]
    keys: list[str]
    metrics: list[str]
    sets: list[TestSet]
    notes: list[str]


def study(
    roots: Sequence[Path],
    by: Sequence[str] = (),
    metrics: Sequence[str] = (),
    wanted: Mapping[str, str] = MappingProxyType({}),
) -> Study:
    """Read and compare all finished runs at or below ``roots``.

    Args:
        roots: run directories or folders above them.
        by: keys to group by; by default what differs.
        metrics: to compare, the first one first; by default the one that selected.
        wanted: words that a run must match, by key; see ``chosen``.

    Raises:
        UserError: there is nothing to compare, or it is not comparable.
    """
    runs, notes = read_runs(run_folders(roots))
    if not runs:
        raise UserError("No run in there has finished:\n  " + "\n  ".join(notes))
    runs = chosen(runs, wanted)
    comparable.refuse_selection_on_test(runs)
    names = _names(runs)
    for name in dict.fromkeys(names):
        comparable.refuse_unlike([run for run, of in zip(runs, names, strict=True) if of == name], name)
    main = comparable.chosen_metrics(runs, metrics)
    comparable.refuse_unlike_losses(runs, main)
    grouping = grouped(runs, by, names)
    notes += [*comparable.unlike_precisions(runs), *grouping.notes]
    sets = [_test_set(name, grouping, main, notes) for name in dict.fromkeys(names)]
    if len(sets) > 1 and all(len(one.groups) < 2 for one in sets):
        raise comparable.not_crossed([one.name for one in sets], [names.count(one.name) for one in sets])
    return Study(runs, grouping.keys, main, sets, notes)


def _names(runs: Sequence[Run]) -> list[str]:
    """The name of each run's test set: of its data where that tells test sets apart, else the fingerprint."""
    prints = [comparable.test_set(run) for run in runs]
    for named in ([run.choices.get("data") for run in runs], [run.record.get("name") for run in runs]):
        together = set(zip(named, prints, strict=True))
        if None not in named and len(together) == len(set(named)) == len(set(prints)):
            return [str(name) for name in named]
    return [f"test set {name}" for name in prints]


def _test_set(name: str, grouping: Grouping, main: Sequence[str], notes: list[str]) -> TestSet:
    groups = {}
    for group in grouping.groups:
        own = {repetition: run for repetition, run in group.runs.items() if repetition[0] == name}
        if own:
            groups[group.label] = Group(group.label, group.values, own)
    found = measured([run for group in groups.values() for run in group.runs.values()], main, notes)
    for label, group in list(groups.items()):
        group.runs = {repetition: run for repetition, run in group.runs.items() if run.folder in found.place}
        if not group.runs:
            del groups[label]
    arms = {metric: _ranked(metric, groups, found) for metric in found.values}
    one = TestSet(name, found, groups, arms)
    one.pairs = {metric: _pairs(metric, one) for metric in main}
    return one


def _ranked(metric: str, groups: dict[str, Group], found: Measured) -> dict[str, Arm]:
    arms = {label: found.arm(metric, list(group.runs.values())) for label, group in groups.items()}
    sign = 1 if metric in LOWER_IS_BETTER else -1
    return dict(sorted(arms.items(), key=lambda item: sign * item[1].mean))


def _pairs(metric: str, one: TestSet) -> list[Pair]:
    labels = list(combinations(one.arms[metric], 2))
    arms = [_arms(metric, one, better, worse) for better, worse in labels]
    found = contrasts(arms, one.examples, one.scale(metric))
    adjusted = holm([contrast.p for contrast in found])
    return [
        Pair(better, worse, contrast, p, len(pair) == 1)
        for (better, worse), contrast, p, pair in zip(labels, found, adjusted, arms, strict=True)
    ]


def _arms(metric: str, one: TestSet, better: str, worse: str) -> list[Arm]:
    """Differences over the seeds that both have, or, where they share fewer than two, both by themselves."""
    a, b = one.groups[better].runs, one.groups[worse].runs
    common = [repetition for repetition in a if repetition in b]
    if len(common) < 2:
        arms = one.arms[metric]
        return [arms[better], arms[worse].negative()]
    first, second = (one.measured.arm(metric, [runs[repetition] for repetition in common]) for runs in (a, b))
    return [first.minus(second)]
