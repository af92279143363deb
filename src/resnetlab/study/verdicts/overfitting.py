"""The detectors of overfitting: with fewer training images, and with more layers."""

import statistics
from collections.abc import Sequence

from resnetlab.study.run_metrics import generalisation_gap, train_error, unseen_error
from resnetlab.study.statistics.paired_comparison import PairedComparison, RunGroup, RunsBySeed, compare_pairs
from resnetlab.study.verdicts.depth_result import DepthResult, depth_result
from resnetlab.study.verdicts.rules import OVERFITTING_POINTS, UNDER_TRAINED_PCT
from resnetlab.study.verdicts.run_checks import has_diverged, has_fitted
from resnetlab.study.verdicts.sentences import metric_range, network_name


def detect_overfitting(group: RunGroup) -> str | None:
    """Return a sentence if one of the two rules of overfitting holds."""
    return _with_fewer_images(group) or _with_depth(group)


def _with_fewer_images(group: RunGroup) -> str | None:
    """Return a sentence if the generalisation gap is wider with the fewest images: at every depth, clearly on average.

    A gap on fifty images varies over seeds, so the interval is that of the mean over depths.
    """
    compared = gaps_with_fewer_images(group)
    if any(has_diverged(run) for few, many, _ in compared for runs in (few, many) for run in runs.values()):
        return None
    if not compared or not _mean_over_depths([wider for _, _, wider in compared]).is_clear:
        return None
    sentences = []
    for few, many, wider in compared:
        most = next(iter(many.values())).train_images
        if wider.mean < OVERFITTING_POINTS or min(wider.points.values()) <= 0 or not all(map(has_fitted, few.values())):
            return None
        sentences.append(
            f"{network_name(few)} fits the training set ({metric_range(train_error, few.values())} %) and errs by "
            f"{metric_range(generalisation_gap, few.values())} points more on unseen images; trained on "
            f"{'all' if most is None else format(most, ',')} images, by "
            f"{metric_range(generalisation_gap, many.values())}. The gap is {wider.mean:.1f} points wider on average "
            f"over {len(wider.points)} seeds (95 % interval {wider.interval_text})."
        )
    return f"{' '.join(sentences)} This is an effect of fewer images, not of depth." if sentences else None


def gaps_with_fewer_images(group: RunGroup) -> list[tuple[RunsBySeed, RunsBySeed, PairedComparison]]:
    """Return, for each depth, the runs on the fewest and on the most images, and how much wider the gap of the former.

    Empty if the group has one number of training images.
    """
    fewest, most = group.train_sizes[0], group.train_sizes[-1]
    depths = [depth for depth in group.depths(fewest) if fewest != most and depth in group.depths(most)]
    compared = []
    for depth in depths:
        few, many = group.by_seed(depth, fewest), group.by_seed(depth, most)
        wider = compare_pairs(many, few, generalisation_gap)
        if wider is not None:
            compared.append((few, many, wider))
    return compared


def _mean_over_depths(compared: Sequence[PairedComparison]) -> PairedComparison:
    """Return the mean of several comparisons for each seed that all of them have."""
    seeds = set.intersection(*(set(wider.points) for wider in compared))
    return PairedComparison(
        {seed: statistics.fmean(wider.points[seed] for wider in compared) for seed in seeds},
        smallest_step=max(wider.smallest_step for wider in compared),
    )


def _with_depth(group: RunGroup) -> str | None:
    """Return a sentence if, for every number of training images, the deepest networks overfit more.

    A run of any depth that ended in NaN leaves it open: every depth counts.
    """
    if any(map(has_diverged, group.runs)):
        return None
    sentences = []
    for size in group.train_sizes:
        result = depth_result(group, size)
        sentence = result and _deeper_overfits(result)
        if not sentence:
            return None
        sentences.append(sentence)
    return " ".join(sentences)


def _deeper_overfits(result: DepthResult) -> str | None:
    """Return a sentence if the deep networks fit their training set as well, but err more on unseen images."""
    shallow, deep = result.pair
    unseen, gap = (compare_pairs(shallow, deep, metric) for metric in (unseen_error, generalisation_gap))
    fit = result.effect
    if unseen is None or gap is None or fit.interval is None:
        return None
    is_clear = all(wider.is_clear_among(result.num_candidates) for wider in (unseen, gap))
    worse = is_clear and min(unseen.mean, gap.mean) >= OVERFITTING_POINTS
    if not worse or fit.interval[1] >= OVERFITTING_POINTS or not _fits_nearly(shallow, deep):
        return None
    return (
        f"both {network_name(shallow)} and {network_name(deep)} fit the training set "
        f"({metric_range(train_error, shallow.values())} and {metric_range(train_error, deep.values())} %; difference "
        f"{fit.interval_text}), yet the deeper errs by {unseen.mean:.1f} points more on unseen images on average over "
        f"{len(unseen.points)} seeds (95 % interval {unseen.interval_text})."
    )


def _fits_nearly(*groups: RunsBySeed) -> bool:
    errors = [train_error(run) for runs in groups for run in runs.values()]
    return all(error is not None and error <= UNDER_TRAINED_PCT for error in errors)
