"""Numbers of a judgement, beside slow loops, scikit-learn, and Wilson's formula written out."""

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
from resnetlab.evaluation.metrics import BINS, MISTAKES, compute_metrics, error_rate
from resnetlab.evaluation.predictions import Predictions


def scores(num_samples=400, num_classes=7, seed=0):
    """Labels, and probabilities that lean towards them: (num_samples, num_classes)."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, num_classes, num_samples)
    logits = random.normal(0, 1.5, (num_samples, num_classes))
    logits[np.arange(num_samples), labels] += 2
    return labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def judged(labels, probabilities):
    order = np.argsort(-probabilities, axis=1)[:, :5]
    rows = np.arange(len(labels))
    return Predictions(rows, labels, order, probabilities.max(1), -np.log(probabilities[rows, labels]))


def names(count):
    return [f"class {number}" for number in range(count)]


def wilson(count, total, z=1.959963984540054):
    """Wilson 1927, as textbooks have it; z is the 97.5 % quantile of the normal distribution."""
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
def test_errors_are_those_of_scikit_learn(num_classes):
    labels, probabilities = scores(num_classes=num_classes)
    made = compute_metrics(judged(labels, probabilities), names(num_classes))
    top1 = (probabilities.argmax(1) == labels).mean()
    assert made.top1.pct == pytest.approx(100 * (1 - top1))
    assert made.top_k == min(5, num_classes)
    if num_classes > made.top_k:
        top5 = top_k_accuracy_score(labels, probabilities, k=5, labels=range(num_classes))
        assert made.top5.pct == pytest.approx(100 * (1 - top5))
        assert 0 < made.top5.num_wrong < made.top1.num_wrong
    else:
        assert made.top5.num_wrong == 0
    assert made.top1.interval_95_pct == pytest.approx(wilson(made.top1.num_wrong, 400))
    assert made.top5.interval_95_pct == pytest.approx(wilson(made.top5.num_wrong, 400), abs=1e-9)
    theirs = confusion_matrix(labels, probabilities.argmax(1), labels=range(num_classes))
    assert made.confusion.dtype == np.int64
    assert np.array_equal(made.confusion, theirs)
    assert made.loss == pytest.approx(
        sum(-math.log(row[of]) for row, of in zip(probabilities, labels, strict=True)) / 400
    )


def test_class_by_class():
    labels, probabilities = scores(num_samples=60)
    labels[labels == 3] = 4  # nothing of class 3
    made = compute_metrics(judged(labels, probabilities), names(7))
    for number, one in enumerate(made.per_class):
        rows = [row for row in range(60) if labels[row] == number]
        wrong = [row for row in rows if probabilities[row].argmax() != number]
        assert (one.name, one.num_samples) == (f"class {number}", len(rows))
        if rows:
            assert one.error is not None
            assert one.error.pct == pytest.approx(100 * len(wrong) / len(rows))
            assert one.error.interval_95_pct == pytest.approx(wilson(len(wrong), len(rows)), abs=1e-9)
        else:
            assert number == 3
            assert one.error is None


def test_confusions_the_most_frequent_first():
    labels, probabilities = scores()
    made = compute_metrics(judged(labels, probabilities), names(7))
    guesses = probabilities.argmax(1)
    pairs = Counter(pair for pair in zip(labels.tolist(), guesses.tolist(), strict=True) if pair[0] != pair[1])
    in_order = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    assert [(one.true, one.predicted, one.count) for one in made.confusions] == [
        (f"class {true}", f"class {guess}", count) for (true, guess), count in in_order
    ]
    (true, _), count = in_order[0]
    assert made.confusions[0].share_pct == pytest.approx(100 * count / (labels == true).sum())


def test_calibration_in_a_slow_loop():
    labels, probabilities = scores(num_samples=300)
    made = compute_metrics(judged(labels, probabilities), names(7))
    gap = 0.0
    for number, one in enumerate(made.reliability):
        inside = [row for row in range(300) if number / BINS < probabilities[row].max() <= (number + 1) / BINS]
        assert one.count == len(inside)
        assert (one.low, one.high) == pytest.approx((number / BINS, (number + 1) / BINS))
        if not inside:
            assert (one.confidence, one.accuracy, one.accuracy_interval_95) == (None, None, None)
            continue
        right = sum(probabilities[row].argmax() == labels[row] for row in inside)
        confidence = sum(probabilities[row].max() for row in inside) / len(inside)
        assert one.confidence == pytest.approx(confidence)
        assert one.accuracy == pytest.approx(right / len(inside))
        low, high = wilson(right, len(inside))
        assert one.accuracy_interval_95 == pytest.approx((low / 100, high / 100), abs=1e-9)
        gap += len(inside) / 300 * abs(right / len(inside) - confidence)
    assert made.ece_pct == pytest.approx(100 * gap)
    assert made.mean_confidence_pct == pytest.approx(100 * probabilities.max(1).mean())
    assert sum(one.count > 0 for one in made.reliability) > 5


def judgement(labels, top, confidence, positions=None):
    count = len(labels)
    return Predictions(
        np.arange(count) if positions is None else np.array(positions),
        np.array(labels),
        np.array(top),
        np.array(confidence, dtype=float),
        np.full(count, 0.5),
    )


def test_the_ends_of_the_bins():
    """A bin has its upper end and not its lower one (Guo et al.); 0 is in the first, just above 1 in the last."""
    made = compute_metrics(judgement([0] * 5, [[0, 1]] * 5, [0.0, 1 / 15, 1.0, 1 + 1e-12, 0.2]), ["a", "b"])
    counts = [one.count for one in made.reliability]
    assert counts == [2, 0, 1] + [0] * 11 + [2]


def test_calibration_by_hand():
    """Half right at 0.9 and all right at 0.6: (2 x 0.4 + 1 x 0.4) / 3."""
    made = compute_metrics(judgement([0, 0, 0], [[0, 1], [1, 0], [0, 1]], [0.9, 0.9, 0.6]), ["a", "b"])
    assert made.ece_pct == pytest.approx(40)


def test_the_most_confident_mistakes():
    labels, probabilities = scores()
    shuffled = np.random.default_rng(1).permutation(1000)[:400]
    found = replace(judged(labels, probabilities), positions=np.sort(shuffled))
    made = compute_metrics(found, names(7))
    rows = [row for row in range(400) if probabilities[row].argmax() != labels[row]]
    rows.sort(key=lambda row: -probabilities[row].max())
    assert len(rows) > MISTAKES
    assert [(one.position, one.true, one.predicted, one.confidence) for one in made.mistakes] == [
        (found.positions[row], f"class {labels[row]}", f"class {probabilities[row].argmax()}", probabilities[row].max())
        for row in rows[:MISTAKES]
    ]


def test_equal_mistakes_stand_by_position():
    made = compute_metrics(
        judgement([0, 0, 1, 0], [[1, 0], [1, 0], [1, 0], [1, 0]], [0.7, 0.7, 0.9, 0.8], [3, 5, 8, 13]), ["a", "b"]
    )
    assert [one.position for one in made.mistakes] == [13, 3, 5]


def test_a_network_that_gives_nan_is_wrong_and_nothing_else():
    """The second sample would be right, were there a number: it is wrong in every error, and is in no other figure."""
    nan = math.nan
    made = compute_metrics(judgement([0, 1, 1], [[0, 1], [1, 0], [0, 1]], [0.9, nan, 0.8]), ["a", "b"])
    assert (made.top1.num_wrong, made.top5.num_wrong, made.num_without_confidence) == (2, 1, 1)
    assert made.confusion.tolist() == [[1, 0], [1, 0]]
    assert sum(one.count for one in made.reliability) == 2
    assert [one.position for one in made.mistakes] == [2]
    (second,) = (one.error for one in made.per_class if one.name == "b")
    assert second is not None
    assert second.pct == 100
    assert made.confusions[0].share_pct == 50


def test_nothing_but_nan():
    every = judgement([0, 1], [[0, 1], [1, 0]], [math.nan, math.nan])
    said = compute_metrics(replace(every, loss=np.array([math.nan, 1.0])), ["a", "b"]).as_json()
    assert (said["top1_error_pct"], said["ece_pct"], said["mean_confidence_pct"], said["loss"]) == (
        100,
        None,
        None,
        None,
    )
    assert said["confusions"] == said["mistakes"] == []
    json.dumps(said, allow_nan=False)


def test_a_loss_that_is_infinite_is_null():
    one = replace(judgement([0], [[0, 1]], [0.9]), loss=np.array([math.inf]))
    assert compute_metrics(one, ["a", "b"]).as_json()["loss"] is None


def test_as_json_is_plain():
    labels, probabilities = scores(num_samples=50)
    labels[labels == 3] = 4
    made = compute_metrics(judged(labels, probabilities), names(7))
    said = json.loads(json.dumps(made.as_json(), allow_nan=False))
    assert said["top1_error_pct"] == made.top1.pct
    assert said["top5_error_pct"] == made.top5.pct
    assert said["top1_interval_95_pct"] == list(made.top1.interval_95_pct)
    assert said["top5_interval_95_pct"] == list(made.top5.interval_95_pct)
    assert (said["num_samples"], said["top_k"], said["loss"], said["ece_pct"]) == (50, 5, made.loss, made.ece_pct)
    assert said["confusion"] == made.confusion.tolist()
    assert said["per_class"][3] == {
        "class": "class 3",
        "num_samples": 0,
        "error_pct": None,
        "interval_95_pct": None,
    }
    assert said["per_class"][4]["interval_95_pct"] == pytest.approx(
        wilson(sum(said["confusion"][4]) - said["confusion"][4][4], sum(said["confusion"][4])), abs=1e-9
    )
    assert sum(one["count"] for one in said["reliability"]) == 50
    assert set(said["mistakes"][0]) == {"position", "true", "predicted", "confidence"}


def test_a_class_of_one():
    made = compute_metrics(judgement([0, 0], [[0], [0]], [1.0, 1.0]), ["only"])
    assert (made.top_k, made.top1.pct, made.ece_pct) == (1, 0, 0)


def test_nothing_was_judged():
    with pytest.raises(ConfigError, match="not one image was judged"):
        compute_metrics(judgement([], np.empty((0, 2), dtype=int), []), ["a", "b"])


@pytest.mark.parametrize("module", ["metrics", "figures", "page"])
def test_no_torch(module):
    code = f"import sys, resnetlab.evaluation.{module}; print('torch' in sys.modules, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
