"""The chance level in the report of a study."""

from dataclasses import replace

from helpers.synthetic_runs import synthetic_run
from resnetlab.study.reports.chance_levels import chance_levels
from resnetlab.study.run_metrics import guessing_error_pct
from resnetlab.study.verdicts.run_checks import has_learnt


def run(arm, seed, *, better, data="digits", test=True):
    entry = {"error_pct": 89.26, "class": "3", "better_than_chance": better}
    made = synthetic_run(arm, 56, seed, 80.0, data=data, has_layer_stats=False)
    return replace(
        made, result={**made.result, "chance": {"train": entry, "val": entry, "test": entry if test else None}}
    )


def test_the_networks_that_are_no_better_are_counted():
    runs = [run("plain", 0, better=False), run("plain", 1, better=True), run("residual", 0, better=True)]
    (level,) = chance_levels(runs)
    assert level.sentence == (
        "Chance level on digits: 89.26 % test error by always predicting '3', the most frequent class. No better than "
        "chance: plain-56 (1 of 2 runs)."
    )
    assert level.as_json()["no_better"] == ("plain-56 (1 of 2 runs)",)


def test_a_run_that_ended_in_nan_is_no_better():
    diverged = synthetic_run("plain", 56, 1, None, status="diverged")
    (level,) = chance_levels(
        [run("plain", 0, better=True), diverged, synthetic_run("C", 56, 0, None, status="diverged")]
    )
    assert level.sentence.endswith("No better than chance: plain-56 (1 of 2 runs), C-56 (1 of 1 run).")
    assert "known" not in level.as_json()


def test_runs_that_did_not_finish_are_not_called_better():
    better = run("plain", 0, better=True)
    for status in ("failed", "unfinished"):
        (level,) = chance_levels([better, synthetic_run("plain", 56, 1, None, status=status)])
        assert level.sentence.endswith("Every finished run is better than chance.")
    (level,) = chance_levels([better, synthetic_run("plain", 56, 1, 1.0)])
    assert level.sentence.endswith("Every run that recorded it is better than chance.")


def test_data_without_a_test_split_have_the_level_of_the_validation_split():
    (level,) = chance_levels([run("residual", 0, better=True, data="/photos/<b>", test=False)])
    assert level.sentence.startswith("Chance level on <b>: 89.26 % val error")
    assert level.sentence.endswith("Every run is better than chance.")


def test_old_records_and_failed_runs_have_none():
    assert (
        chance_levels([synthetic_run("plain", 20, 0, 1.0), synthetic_run("plain", 20, 1, None, status="diverged")])
        == []
    )


def test_a_constant_answer_has_not_learnt():
    """90 of 100 images are of one class: a network that always answers it errs by 10 %."""
    made = synthetic_run("plain", 20, 0, 10.0)
    two_classes = {"data": {"classes": ["cat", "dog"]}}
    known = {"train": {"error_pct": 10.0, "class": "cat", "better_than_chance": False}, "val": None}
    old = replace(made, start=two_classes)
    new = replace(old, result={**made.result, "chance": known})
    assert (guessing_error_pct(old), guessing_error_pct(new)) == (50.0, 10.0)
    assert has_learnt(old)
    assert not has_learnt(new)
    assert has_learnt(replace(new, result={**new.result, "train_error_pct": 4.0}))
    assert guessing_error_pct(replace(old, result={**made.result, "chance": {"train": None}})) == 50.0
