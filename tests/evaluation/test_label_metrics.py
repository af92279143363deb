"""Metrics of images with several labels, against definitions written out and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from resnetlab.evaluation.label_metrics import best_threshold, compute_label_metrics, fit_thresholds
from resnetlab.evaluation.multi_label import (
    LabelPredictions,
    average_precisions,
    constant_error_pct,
    mean_average_precision_pct,
)


@pytest.fixture
def predictions():
    rng = np.random.default_rng(0)
    labels = rng.random((200, 3)) < (0.5, 0.2, 0.05)
    probabilities = 1 / (1 + np.exp(-(rng.normal(size=(200, 3)) + 2 * labels - 1)))
    return LabelPredictions(positions=np.arange(200), labels=labels, probabilities=probabilities)


def average_precision(truth, scores):
    """Return the mean, over the images with the label, of the precision down to each of them."""
    ranked = truth[np.argsort(-scores, kind="stable")]
    return float(np.mean([ranked[: rank + 1].mean() for rank in np.flatnonzero(ranked)]))


def test_average_precision(predictions):
    expected = [average_precision(t, p) for t, p in zip(predictions.labels.T, predictions.probabilities.T, strict=True)]
    assert average_precisions(predictions) == pytest.approx(expected)
    assert mean_average_precision_pct(predictions) == pytest.approx(100 * np.mean(expected))


def test_a_label_that_no_image_has_does_not_count(predictions):
    predictions.labels[:, 2] = False
    values = average_precisions(predictions)
    assert values[2] is None
    assert mean_average_precision_pct(predictions) == pytest.approx(50 * sum(value or 0 for value in values))
    metrics = compute_label_metrics(predictions, ("a", "b", "c"), (0.5, 0.5, 0.5))
    assert (metrics.per_label[2].recall_pct, metrics.per_label[2].average_precision_pct) == (None, None)
    assert metrics.macro_f1_pct == pytest.approx(np.mean([row.f1_pct or 0 for row in metrics.per_label[:2]]))


def test_the_threshold_has_the_highest_f1(predictions):
    for truth, scores in zip(predictions.labels.T, predictions.probabilities.T, strict=True):
        found = best_threshold(truth, scores)
        best = max(f1_score(truth, scores >= threshold) for threshold in scores)
        assert f1_score(truth, scores >= found) == pytest.approx(best)
        assert np.abs(scores - found).min() > 0  # halfway between two images


@pytest.mark.parametrize(
    ("truth", "scores", "threshold"),
    [
        ([True, True, False], [0.9, 0.7, 0.1], 0.4),
        ([True, False, True], [0.8, 0.8, 0.8], 0.4),  # equal probabilities are accepted together
        ([False, False], [0.9, 0.1], 0.5),
        ([True, True], [0.9, 0.1], 0.5),
        ([True, False], [np.nan, 0.1], 0.5),
    ],
)
def test_thresholds_of_small_cases(truth, scores, threshold):
    assert best_threshold(np.array(truth), np.array(scores)) == pytest.approx(threshold)


def test_metrics_at_thresholds(predictions):
    card = fit_thresholds(predictions, split="val")
    assert (card.split, card.num_images, len(card.thresholds)) == ("val", 200, 3)
    metrics = compute_label_metrics(predictions, ("a", "b", "c"), card.thresholds)
    given, truth = predictions.probabilities >= card.thresholds, predictions.labels
    for index, row in enumerate(metrics.per_label):
        assert row.precision_pct == pytest.approx(100 * precision_score(truth[:, index], given[:, index]))
        assert row.recall_pct == pytest.approx(100 * recall_score(truth[:, index], given[:, index]))
        assert row.f1_pct == pytest.approx(100 * f1_score(truth[:, index], given[:, index]))
    assert metrics.macro_f1_pct == pytest.approx(100 * f1_score(truth, given, average="macro"))
    assert metrics.micro_f1_pct == pytest.approx(100 * f1_score(truth, given, average="micro"))
    assert metrics.exact_match_error.num_wrong == int((given != truth).any(1).sum())
    assert metrics.as_json()["per_label"][0]["name"] == "a"


def test_chance_is_the_most_frequent_set():
    labels = np.array([[1, 1], [1, 1], [0, 1], [0, 0]], bool)
    assert constant_error_pct(labels) == (50.0, (0, 1))
