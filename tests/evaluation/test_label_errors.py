"""Likely label errors: against a slow loop of the definition, and found where labels were changed on purpose."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from resnetlab.evaluation.figures import FIGURES, SvgFigure
from resnetlab.evaluation.html_report import render_page
from resnetlab.evaluation.label_errors import MAX_EXAMPLES, find_label_errors
from resnetlab.evaluation.metrics import compute_metrics
from resnetlab.evaluation.predictions import Predictions
from resnetlab.evaluation.summary import EvaluationSummary, evaluation_notes, selection_notes

CLASSES = [f"class {number}" for number in range(6)]
SUMMARY = EvaluationSummary(
    title="t", models=("m",), files=("f",), data="d", split="test", protocol="one crop", command="c"
)


def changed_labels(num_samples=600, share=0.05, seed=0):
    """Return probabilities of a good network, labels of which a share was changed, and which ones."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, 5, num_samples)  # the last class is empty
    logits = rng.normal(0, 1, (num_samples, 6))
    logits[np.arange(num_samples), true] += 5
    changed = rng.random(num_samples) < share
    labels = np.where(changed, (true + rng.integers(1, 5, num_samples)) % 5, true)
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels, changed


def predictions_of(probabilities, labels):
    rows = np.arange(len(labels))
    return Predictions(
        positions=rows + 1000,
        labels=labels,
        top=np.argsort(-probabilities, axis=1)[:, :5],
        confidence=probabilities.max(1),
        loss=-np.log(probabilities[rows, labels]),
    )


def test_the_images_are_those_of_the_definition():
    probabilities, labels, _ = changed_labels()
    usual = {
        label: np.mean([row[label] for row, own in zip(probabilities, labels, strict=True) if own == label])
        for label in range(5)
    }
    expected = []
    for position, (row, label) in enumerate(zip(probabilities, labels, strict=True)):
        best = int(row.argmax())
        if best != label and best in usual and row[best] >= usual[best]:
            expected.append((row[label], position + 1000))
    found = find_label_errors(predictions_of(probabilities, labels), CLASSES)
    assert found.count == len(expected) > MAX_EXAMPLES / 2
    for example, (self_confidence, position) in zip(found.examples, sorted(expected), strict=False):
        assert example.position == position
        assert example.self_confidence == pytest.approx(self_confidence)
        assert example.label == CLASSES[labels[position - 1000]]
        assert example.suggested == CLASSES[probabilities[position - 1000].argmax()]
        assert example.probability == pytest.approx(probabilities[position - 1000].max())


def test_labels_that_were_changed_are_found():
    probabilities, labels, changed = changed_labels()
    found = find_label_errors(predictions_of(probabilities, labels), CLASSES)
    assert len(found.examples) == min(found.count, MAX_EXAMPLES)
    assert np.mean([changed[example.position - 1000] for example in found.examples]) > 0.9
    assert find_label_errors(predictions_of(*changed_labels(share=0)[:2]), CLASSES).count < 5


def test_images_without_a_confidence_are_left_out():
    probabilities, labels, _ = changed_labels()
    predictions = predictions_of(probabilities, labels)
    nothing = np.full(len(labels), np.nan)
    assert find_label_errors(replace(predictions, confidence=nothing, loss=nothing), CLASSES).count == 0


def test_json_and_page_show_them_for_held_out_images_only(monkeypatch):
    figure = SvgFigure(b"<svg/>", b"<svg/>")
    monkeypatch.setattr("resnetlab.evaluation.html_report.draw_figures", lambda _: dict.fromkeys(FIGURES, figure))
    probabilities, labels, _ = changed_labels()
    predictions = predictions_of(probabilities, labels)
    evaluation = compute_metrics(predictions, CLASSES)
    assert evaluation.label_errors is not None
    output = evaluation.as_json()["label_errors"]
    assert output["count"] == evaluation.label_errors.count
    assert output["examples"][0]["position"] == evaluation.label_errors.examples[0].position
    images = [np.full((8, 8, 3), 7, np.uint8)] * len(output["examples"])
    names = tuple(f"<{example['position']}>.png" for example in output["examples"])
    page = render_page(evaluation, replace(SUMMARY, label_error_names=names), label_error_thumbnails=images)
    assert "<h2>Likely label errors</h2>" in page
    assert all(f"&lt;{example['position']}&gt;.png" in page for example in output["examples"])
    seen = compute_metrics(predictions, CLASSES, held_out=False)
    assert seen.as_json()["label_errors"] is None
    assert "Likely label errors" not in render_page(seen, SUMMARY)


def test_a_network_at_chance_finds_no_label_errors():
    probabilities, labels, _ = changed_labels()
    rng = np.random.default_rng(1)
    assert compute_metrics(predictions_of(probabilities, labels), CLASSES).label_errors is not None
    assert compute_metrics(predictions_of(rng.permutation(probabilities), labels), CLASSES).label_errors is None


@pytest.mark.parametrize(("share", "noted"), [(0.05, False), (0.3, True)])
def test_a_poor_network_is_named_beside_its_label_errors(share, noted):
    probabilities, labels, _ = changed_labels(share=share)
    evaluation = compute_metrics(predictions_of(probabilities, labels), CLASSES)
    dataset: Any = SimpleNamespace(warnings=(), seen_in_training=False, split_name="val", title="photos")
    origin = {"config": {"recipe": {"keep": "best"}}, "data": {"name": "photos", "fingerprint": "f"}}
    card: Any = SimpleNamespace(provenance=origin, temperature_scaling=None)
    member: Any = SimpleNamespace(dataset=dataset, card=card, contradiction=None, num_recalibration_images=0)
    notes = evaluation_notes([member], evaluation)
    assert any("many likely label errors are its own mistakes" in note for note in notes) == noted
    assert any("the epoch that was kept was selected on this split" in note for note in notes)
    dataset.split_name = "test"
    assert not any("the epoch that was kept" in note for note in evaluation_notes([member], evaluation))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ({"keep": "best"}, ["the epoch that was kept"]),
        ({"keep": "last", "early_stop_epochs": 3}, ["the end of the training"]),
        ({"schedule": "plateau"}, ["the learning rate was lowered"]),
        ({"keep": "best", "early_stop_epochs": 3}, ["the epoch that was kept", "the end of the training"]),
        ({"keep": "last", "schedule": "step"}, []),
    ],
)
def test_every_use_of_the_evaluated_split_in_training_is_named(recipe, words):
    dataset: Any = SimpleNamespace(split_name="val", title="photos")
    card: Any = SimpleNamespace(provenance={"config": {"recipe": recipe}, "data": {"name": "photos"}})
    member: Any = SimpleNamespace(dataset=dataset, card=card)
    notes = selection_notes([member, member])
    assert len(notes) == len(words)
    assert all(note.startswith(start) for note, start in zip(notes, words, strict=True))
    dataset.split_name = "test"
    assert not selection_notes([member])
