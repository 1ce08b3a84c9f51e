"""A study in words."""

import math
from collections.abc import Iterator, Sequence

from tl_lightning.studies.levels import ALPHA
from tl_lightning.studies.study import Pair, TestSet
from tl_lightning.values import LOWER_IS_BETTER

IN_POINTS = frozenset({"accuracy", "f1", "precision", "recall", "auroc", "ece", "mcc", "pearson", "spearman"})
ALL_PAIRS_UP_TO = 10
FEW_SEEDS = 3


def verdict(one: TestSet, metric: str) -> list[str]:
    """The verdict on one test set by one metric: a headline, then a sentence for each pair that matters."""
    labels, pairs = list(one.arms[metric]), one.pairs[metric]
    if not pairs:
        return [f"There is one kind of run here ({labels[0]}): nothing to compare it with.", *_lone(one, metric)]
    told = pairs if len(pairs) <= ALL_PAIRS_UP_TO else [pair for pair in pairs if pair.better == labels[0]]
    return [_headline(metric, pairs, labels), *(sentence(pair, metric, len(pairs)) for pair in told)]


def _lone(one: TestSet, metric: str) -> Iterator[str]:
    for label, arm in one.arms[metric].items():
        if len(arm.values) < 2:
            yield f"{label} ran with one seed, which is no evidence of the spread over seeds."


def _headline(metric: str, pairs: Sequence[Pair], labels: Sequence[str]) -> str:
    best = labels[0]
    of_best = [pair for pair in pairs if pair.better == best]
    if all(pair.contrast.one_seed for pair in of_best):
        return f"No verdict: {best} has the best {metric}, but one seed is no evidence of a difference between methods."
    beaten = [pair.worse for pair in of_best if clear(pair)]
    open_ = [pair.worse for pair in of_best if not clear(pair)]
    if not open_:
        return f"{best} is the best by {metric}: better than {_listed(beaten)}."
    if not beaten:
        return f"No winner by {metric}: {best} leads, but is not distinguishable from {_listed(open_)}."
    return f"{best} leads by {metric}: better than {_listed(beaten)}, not distinguishable from {_listed(open_)}."


def _listed(labels: Sequence[str], most: int = 6) -> str:
    more = f" and {len(labels) - most} others" if len(labels) > most else ""
    return ("; " if any("," in label for label in labels) else ", ").join(labels[:most]) + more


def clear(pair: Pair) -> bool:
    """Whether a pair differs, all comparisons counted."""
    return pair.p < ALPHA and not pair.contrast.one_seed


def sentence(pair: Pair, metric: str, comparisons: int) -> str:
    """What can be said of two groups."""
    found, a, b = pair.contrast, pair.better, pair.worse
    low, high = _bounds(pair, metric)
    p = f"p {p_word(found.p)}"
    corrected = f", corrected for {comparisons} comparisons {p_word(pair.p)}" if comparisons > 1 else ""
    seeds = f"{found.seeds} seeds{' each' if pair.paired else ' or more each, none in common'}"
    if found.one_example:
        return f"{a} and {b}: one test example says nothing of others. Test on more of them."
    if found.one_seed:
        return _one_seed(pair, metric)
    if clear(pair):
        caution = "; few seeds" if found.seeds < FEW_SEEDS else ""
        return (
            f"{a} is better than {b} by {amount(low, high, metric)} (95% interval; {p}{corrected}; {seeds}{caution})."
        )
    if found.difference == 0:
        return f"{a} and {b} came out the same."
    if found.p < ALPHA:
        return (
            f"{a} and {b} are not distinguishable: {amount(low, high, metric)} apart, {p}, but{corrected[1:]}; {seeds}."
        )
    return f"{a} and {b} are not distinguishable ({amount(low, high, metric)}; {p}; {seeds}): {_needed(pair)}."


def _one_seed(pair: Pair, metric: str) -> str:
    found = pair.contrast
    if found.p != found.p:
        return f"{pair.better} and {pair.worse}: one seed and no predictions, so nothing can be said."
    apart = "apart on other test examples too" if found.p < ALPHA else "not distinguishable even as they are"
    return (
        f"{pair.better} and {pair.worse}: one seed is no evidence of the spread over seeds; these runs are {apart}"
        f" ({amount(*_bounds(pair, metric), metric)}, over test examples alone). Run at least {FEW_SEEDS} seeds each."
    )


def _needed(pair: Pair) -> str:
    found = pair.contrast
    if found.more_seeds:
        return f"about {found.more_seeds} seed{'s' if found.more_seeds > 1 else ''} more would be needed"
    if found.more_examples:
        return f"more seeds would not tell; about {found.more_examples:,} test examples would be needed"
    return "no number of seeds within reach would tell"


def _bounds(pair: Pair, metric: str) -> tuple[float, float]:
    """By how much the better one is better: the interval, turned where less is better."""
    low, high = pair.contrast.interval
    return (-high, -low) if metric in LOWER_IS_BETTER else (low, high)


def gain(pair: Pair, metric: str) -> tuple[float, float, float]:
    """By how much the better one is better, with its interval, in the unit of ``unit``."""
    scale = 100 if metric in IN_POINTS else 1
    low, high = _bounds(pair, metric)
    return abs(pair.contrast.difference) * scale, low * scale, high * scale


def unit(metric: str) -> str:
    """What differences of a metric are told in."""
    return "points" if metric in IN_POINTS else metric


def amount(low: float, high: float, metric: str) -> str:
    """An interval of differences in words."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return "an unknown amount"
    if metric in IN_POINTS:
        return f"{100 * low:.1f} to {100 * high:.1f} points"
    return f"{low:.4g} to {high:.4g}"


def p_word(p: float) -> str:
    """A p-value with two digits that count, as it stands behind a p."""
    return "< 0.001" if p < 0.001 else f"= {p:.2g}"
