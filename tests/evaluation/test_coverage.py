"""The coverage curve against a slow loop."""

from dataclasses import replace

import numpy as np
import pytest

from resnetlab.evaluation.coverage import NUM_POINTS, coverage_at, coverage_curve
from resnetlab.evaluation.figures import draw_figures
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import Predictions

CLASSES = [f"class {number}" for number in range(7)]


def labels_and_probabilities(num_samples):
    """Return labels, and probabilities of shape (num_samples, 7) that prefer them."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 7, num_samples)
    logits = rng.normal(0, 1.5, (num_samples, 7))
    logits[np.arange(num_samples), labels] += 2
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def predictions_of(labels, probabilities):
    rows = np.arange(len(labels))
    return Predictions(
        positions=rows,
        labels=labels,
        top=np.argsort(-probabilities, axis=1)[:, :5],
        confidence=probabilities.max(1),
        loss=-np.log(probabilities[rows, labels]),
    )


def test_each_point_is_the_error_of_the_images_above_its_threshold():
    labels, probabilities = labels_and_probabilities(num_samples=403)
    evaluation = compute_metrics(predictions_of(labels, probabilities), CLASSES)
    assert len(evaluation.coverage) == NUM_POINTS
    for number, point in enumerate(evaluation.coverage, start=1):
        answered = [
            (row.argmax(), label)
            for row, label in zip(probabilities, labels, strict=True)
            if row.max() >= point.threshold
        ]
        assert point.num_answered == len(answered) == -(-403 * number // NUM_POINTS)
        assert point.error is not None
        assert point.error.num_wrong == sum(best != label for best, label in answered)
        assert point.coverage_pct == pytest.approx(100 * len(answered) / 403)
    assert evaluation.coverage[-1].error == evaluation.top1


def test_equal_confidences_are_answered_together():
    points = coverage_curve(np.array([0.9] * 30 + [0.5] * 70), np.arange(100) % 2 == 0, 100)
    assert [(point.threshold, point.num_answered) for point in points] == [(0.9, 30), (0.5, 100)]


def test_images_without_a_confidence_are_never_answered():
    labels, probabilities = labels_and_probabilities(num_samples=100)
    predictions = predictions_of(labels, probabilities)
    confidence = predictions.confidence.copy()
    confidence[:40] = np.nan
    evaluation = compute_metrics(replace(predictions, confidence=confidence), CLASSES, reject_below=1e-9)
    assert evaluation.coverage[-1].coverage_pct == 60
    assert evaluation.rejection is not None
    assert evaluation.rejection.num_answered == 60


def test_a_threshold_that_rejects_all_has_no_error():
    point = coverage_at(0.99, np.array([0.5, 0.9]), np.array([True, False]), num_samples=2)
    assert (point.num_answered, point.coverage_pct, point.error) == (0, 0, None)
    assert point.as_json()["error_pct"] is None
    assert coverage_curve(np.array([]), np.array([], bool), 3) == ()


def test_json_and_figure_show_the_threshold():
    labels, probabilities = labels_and_probabilities(num_samples=300)
    predictions = predictions_of(labels, probabilities)
    evaluation = compute_metrics(predictions, CLASSES, reject_below=0.6)
    output = evaluation.as_json()
    assert output["rejection"]["num_answered"] == int((probabilities.max(1) >= 0.6).sum())
    assert output["coverage"][0]["num_answered"] == 15
    assert compute_metrics(predictions, CLASSES).as_json()["rejection"] is None
    figure = draw_figures(evaluation)["coverage"]
    assert figure is not None
    assert "rejected below 0.6" in figure.wide.decode()
