"""Metrics against slow loops, scikit-learn, and the formula of the Wilson score interval."""

import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from resnetlab.config import ConfigError
from resnetlab.evaluation.metrics import MAX_MISTAKES, NUM_BINS, compute_metrics, error_rate
from resnetlab.evaluation.predictions import Predictions


def labels_and_probabilities(num_samples=400, num_classes=7, seed=0):
    """Return labels, and probabilities of shape (num_samples, num_classes) that prefer them."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_samples)
    logits = rng.normal(0, 1.5, (num_samples, num_classes))
    logits[np.arange(num_samples), labels] += 2
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def predictions_of(labels, probabilities):
    order = np.argsort(-probabilities, axis=1)[:, :5]
    rows = np.arange(len(labels))
    return Predictions(
        positions=rows,
        labels=labels,
        top=order,
        confidence=probabilities.max(1),
        loss=-np.log(probabilities[rows, labels]),
    )


def names(count):
    return [f"class {number}" for number in range(count)]


def wilson(count, total, z=1.959963984540054):
    """Return the interval of Wilson 1927; z is the 97.5 % quantile of the normal distribution."""
    share = count / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return 100 * (middle - half), 100 * (middle + half)


@pytest.mark.parametrize(("count", "total"), [(0, 1), (1, 1), (0, 270), (8, 270), (9_999, 10_000), (3, 7)])
def test_wilson(count, total):
    error = error_rate(count, total)
    assert error.pct == pytest.approx(100 * count / total)
    assert error.interval_95_pct == pytest.approx(wilson(count, total), abs=1e-9)


@pytest.mark.parametrize("num_classes", [2, 3, 7, 40])
def test_errors_equal_scikit_learn(num_classes):
    labels, probabilities = labels_and_probabilities(num_classes=num_classes)
    evaluation = compute_metrics(predictions_of(labels, probabilities), names(num_classes))
    top1 = (probabilities.argmax(1) == labels).mean()
    assert evaluation.top1.pct == pytest.approx(100 * (1 - top1))
    assert evaluation.top_k == min(5, num_classes)
    if num_classes > evaluation.top_k:
        top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=range(num_classes))
        assert evaluation.top5.pct == pytest.approx(100 * (1 - top5))
        assert 0 < evaluation.top5.num_wrong < evaluation.top1.num_wrong
    else:
        assert evaluation.top5.num_wrong == 0
    assert evaluation.top1.interval_95_pct == pytest.approx(wilson(evaluation.top1.num_wrong, 400))
    assert evaluation.top5.interval_95_pct == pytest.approx(wilson(evaluation.top5.num_wrong, 400), abs=1e-9)
    expected = confusion_matrix(labels, probabilities.argmax(1), labels=range(num_classes))
    assert evaluation.confusion.dtype == np.int64
    assert np.array_equal(evaluation.confusion, expected)
    assert evaluation.loss == pytest.approx(
        sum(-math.log(row[label]) for row, label in zip(probabilities, labels, strict=True)) / 400
    )


def test_per_class_errors():
    labels, probabilities = labels_and_probabilities(num_samples=60)
    labels[labels == 3] = 4  # class 3 has no samples
    evaluation = compute_metrics(predictions_of(labels, probabilities), names(7))
    for number, item in enumerate(evaluation.per_class):
        rows = [row for row in range(60) if labels[row] == number]
        wrong = [row for row in rows if probabilities[row].argmax() != number]
        assert (item.name, item.num_samples) == (f"class {number}", len(rows))
        if rows:
            assert item.error is not None
            assert item.error.pct == pytest.approx(100 * len(wrong) / len(rows))
            assert item.error.interval_95_pct == pytest.approx(wilson(len(wrong), len(rows)), abs=1e-9)
        else:
            assert number == 3
            assert item.error is None


def test_confusions_are_sorted_by_count():
    labels, probabilities = labels_and_probabilities()
    evaluation = compute_metrics(predictions_of(labels, probabilities), names(7))
    predicted = probabilities.argmax(1)
    pairs = Counter(pair for pair in zip(labels.tolist(), predicted.tolist(), strict=True) if pair[0] != pair[1])
    in_order = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    assert [(item.true, item.predicted, item.count) for item in evaluation.confusions] == [
        (f"class {true}", f"class {other}", count) for (true, other), count in in_order
    ]
    (true, _), count = in_order[0]
    assert evaluation.confusions[0].share_pct == pytest.approx(100 * count / (labels == true).sum())


def test_calibration_equals_a_slow_loop():
    labels, probabilities = labels_and_probabilities(num_samples=300)
    evaluation = compute_metrics(predictions_of(labels, probabilities), names(7))
    gap = 0.0
    for number, item in enumerate(evaluation.reliability):
        in_bin = [row for row in range(300) if number / NUM_BINS < probabilities[row].max() <= (number + 1) / NUM_BINS]
        assert item.count == len(in_bin)
        assert (item.low, item.high) == pytest.approx((number / NUM_BINS, (number + 1) / NUM_BINS))
        if not in_bin:
            assert (item.confidence, item.accuracy, item.accuracy_interval_95) == (None, None, None)
            continue
        num_correct = sum(probabilities[row].argmax() == labels[row] for row in in_bin)
        confidence = sum(probabilities[row].max() for row in in_bin) / len(in_bin)
        assert item.confidence == pytest.approx(confidence)
        assert item.accuracy == pytest.approx(num_correct / len(in_bin))
        low, high = wilson(num_correct, len(in_bin))
        assert item.accuracy_interval_95 == pytest.approx((low / 100, high / 100), abs=1e-9)
        gap += len(in_bin) / 300 * abs(num_correct / len(in_bin) - confidence)
    assert evaluation.ece_pct == pytest.approx(100 * gap)
    assert evaluation.mean_confidence_pct == pytest.approx(100 * probabilities.max(1).mean())
    assert sum(item.count > 0 for item in evaluation.reliability) > 5


def make_predictions(labels, top, confidence, positions=None):
    count = len(labels)
    return Predictions(
        positions=np.arange(count) if positions is None else np.array(positions),
        labels=np.array(labels),
        top=np.array(top),
        confidence=np.array(confidence, dtype=float),
        loss=np.full(count, 0.5),
    )


def test_bin_edges():
    """A bin includes its upper edge, not its lower one (Guo et al.); 0 is in the first, just above 1 in the last."""
    evaluation = compute_metrics(
        make_predictions([0] * 5, [[0, 1]] * 5, [0.0, 1 / 15, 1.0, 1 + 1e-12, 0.2]), ["a", "b"]
    )
    counts = [item.count for item in evaluation.reliability]
    assert counts == [2, 0, 1] + [0] * 11 + [2]


def test_calibration_of_three_samples():
    """Half are correct at 0.9 and all at 0.6: (2 x 0.4 + 1 x 0.4) / 3."""
    evaluation = compute_metrics(make_predictions([0, 0, 0], [[0, 1], [1, 0], [0, 1]], [0.9, 0.9, 0.6]), ["a", "b"])
    assert evaluation.ece_pct == pytest.approx(40)


def test_most_confident_mistakes():
    labels, probabilities = labels_and_probabilities()
    shuffled = np.random.default_rng(1).permutation(1000)[:400]
    predictions = replace(predictions_of(labels, probabilities), positions=np.sort(shuffled))
    evaluation = compute_metrics(predictions, names(7))
    rows = [row for row in range(400) if probabilities[row].argmax() != labels[row]]
    rows.sort(key=lambda row: -probabilities[row].max())
    assert len(rows) > MAX_MISTAKES
    assert [(item.position, item.true, item.predicted, item.confidence) for item in evaluation.mistakes] == [
        (
            predictions.positions[row],
            f"class {labels[row]}",
            f"class {probabilities[row].argmax()}",
            probabilities[row].max(),
        )
        for row in rows[:MAX_MISTAKES]
    ]


def test_ties_between_mistakes_are_in_order_of_position():
    evaluation = compute_metrics(
        make_predictions([0, 0, 1, 0], [[1, 0], [1, 0], [1, 0], [1, 0]], [0.7, 0.7, 0.9, 0.8], [3, 5, 8, 13]),
        ["a", "b"],
    )
    assert [item.position for item in evaluation.mistakes] == [13, 3, 5]


def test_nan_counts_only_as_an_error():
    """The second sample, whose confidence is NaN, counts in the errors and in no other metric."""
    nan = math.nan
    evaluation = compute_metrics(make_predictions([0, 1, 1], [[0, 1], [1, 0], [0, 1]], [0.9, nan, 0.8]), ["a", "b"])
    assert (evaluation.top1.num_wrong, evaluation.top5.num_wrong, evaluation.num_without_confidence) == (2, 1, 1)
    assert evaluation.confusion.tolist() == [[1, 0], [1, 0]]
    assert sum(item.count for item in evaluation.reliability) == 2
    assert [item.position for item in evaluation.mistakes] == [2]
    (second,) = (item.error for item in evaluation.per_class if item.name == "b")
    assert second is not None
    assert second.pct == 100
    assert evaluation.confusions[0].share_pct == 50


def test_all_nan():
    predictions = make_predictions([0, 1], [[0, 1], [1, 0]], [math.nan, math.nan])
    output = compute_metrics(replace(predictions, loss=np.array([math.nan, 1.0])), ["a", "b"]).as_json()
    assert (output["top1_error_pct"], output["ece_pct"], output["mean_confidence_pct"], output["loss"]) == (
        100,
        None,
        None,
        None,
    )
    assert output["confusions"] == output["mistakes"] == []
    json.dumps(output, allow_nan=False)


def test_infinite_loss_is_null():
    predictions = replace(make_predictions([0], [[0, 1]], [0.9]), loss=np.array([math.inf]))
    assert compute_metrics(predictions, ["a", "b"]).as_json()["loss"] is None


def test_as_json_is_valid_json():
    labels, probabilities = labels_and_probabilities(num_samples=50)
    labels[labels == 3] = 4
    evaluation = compute_metrics(predictions_of(labels, probabilities), names(7))
    output = json.loads(json.dumps(evaluation.as_json(), allow_nan=False))
    assert output["top1_error_pct"] == evaluation.top1.pct
    assert output["top5_error_pct"] == evaluation.top5.pct
    assert output["top1_interval_95_pct"] == list(evaluation.top1.interval_95_pct)
    assert output["top5_interval_95_pct"] == list(evaluation.top5.interval_95_pct)
    assert (output["num_samples"], output["top_k"], output["loss"], output["ece_pct"]) == (
        50,
        5,
        evaluation.loss,
        evaluation.ece_pct,
    )
    assert output["confusion"] == evaluation.confusion.tolist()
    assert output["per_class"][3] == {
        "class": "class 3",
        "num_samples": 0,
        "error_pct": None,
        "interval_95_pct": None,
    }
    assert output["per_class"][4]["interval_95_pct"] == pytest.approx(
        wilson(sum(output["confusion"][4]) - output["confusion"][4][4], sum(output["confusion"][4])), abs=1e-9
    )
    assert sum(item["count"] for item in output["reliability"]) == 50
    assert set(output["mistakes"][0]) == {"position", "true", "predicted", "confidence"}


def test_one_class():
    evaluation = compute_metrics(make_predictions([0, 0], [[0], [0]], [1.0, 1.0]), ["only"])
    assert (evaluation.top_k, evaluation.top1.pct, evaluation.ece_pct) == (1, 0, 0)


def test_no_samples_raise():
    with pytest.raises(ConfigError, match="no image was evaluated"):
        compute_metrics(make_predictions([], np.empty((0, 2), dtype=int), []), ["a", "b"])


def test_import_loads_no_torch():
    names = ", ".join(f"resnetlab.evaluation.{name}" for name in ("metrics", "figures", "summary", "html_report"))
    code = f"import sys, {names}; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
