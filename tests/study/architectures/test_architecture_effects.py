"""Effects of depth and addition on architectures other than ResNet, from runs with known errors."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import t, ttest_1samp

from resnetlab.study.architectures.architecture_effects import OUTCOMES, architecture_effects, missing_evidence
from resnetlab.study.architectures.architecture_grid import ARCHITECTURE_SETTINGS, ArchitectureGrid
from resnetlab.study.grid import run_name
from resnetlab.study.results import Run

FITTED, FAILED = (0.1, 0.4, 0.2), (80.0, 84.0, 83.0)


def runs(errors, seeds=(0, 1, 2), diverged=()):
    """Runs with these training errors by architecture, arm and "shallow" or "deep"; test errors are 1 point higher."""
    made = []
    for config in ArchitectureGrid(num_seeds=len(seeds)).runs():
        architecture = config.architecture
        assert architecture is not None
        place = "shallow" if architecture.depth == ARCHITECTURE_SETTINGS[architecture.name].shallow else "deep"
        key = (architecture.name, architecture.arm, place)
        if key not in errors:
            continue
        error = errors[key][config.seed]
        status = "diverged" if (*key, config.seed) in diverged else "done"
        result = {"status": status}
        result |= {"train_error_pct": error, "test_error_pct": error + 1} if status == "done" else {}
        start = {"data": {"num_train": 1257, "num_val": 270, "num_test": 270}}
        made.append(Run(Path(run_name(config)), config, status, start, (), result))
    return made


def four(name, plain_deep, residual_deep, plain_shallow=FITTED, residual_shallow=FITTED):
    return {
        (name, "plain", "shallow"): plain_shallow,
        (name, "plain", "deep"): plain_deep,
        (name, "residual", "shallow"): residual_shallow,
        (name, "residual", "deep"): residual_deep,
    }


def outcome(errors, **options):
    return {(e.architecture, e.split): e.outcome for e in architecture_effects(runs(errors, **options))}


def test_differences_are_paired_by_seed():
    (train, test) = architecture_effects(runs(four("mlp", FAILED, (0.3, 0.2, 0.9))))
    assert (train.split, test.split) == ("train", "test")
    assert train.plain.points == pytest.approx({0: 79.9, 1: 83.6, 2: 82.8})
    assert train.residual.points == pytest.approx({0: 0.2, 1: -0.2, 2: 0.7})
    assert train.addition.points == pytest.approx({0: -79.7, 1: -83.8, 2: -82.1})
    assert (train.plain.first, train.plain.second) == ("mlp-plain-8", "mlp-plain-32")
    assert (train.addition.first, train.addition.second) == ("mlp-plain-32", "mlp-residual-32")
    interval = ttest_1samp([79.9, 83.6, 82.8], 0).confidence_interval()
    assert train.plain.interval == pytest.approx(interval)
    assert (
        "From 8 to 32 layers the training error changes by +82.1 points (95 % interval 77.3 to 86.9)" in train.sentence
    )
    assert "and by +0.2 points (95 % interval −0.9 to 1.4; a tie) with it" in train.sentence


def test_one_correction_for_all_architectures():
    errors = {
        **four("mlp", FAILED, (0.3, 0.2, 0.9)),
        **four("vgg", (70.0, 66.0, 71.0), (5.0, 9.0, 6.5)),
    }
    effects = [effect for effect in architecture_effects(runs(errors)) if effect.split == "train"]
    comparisons = [comparison for effect in effects for comparison in effect.comparisons]
    assert {comparison.num_comparisons for comparison in comparisons} == {6}
    tests: list[Any] = [ttest_1samp(list(comparison.points.values()), 0) for comparison in comparisons]
    p = sorted(test.pvalue for test in tests)
    adjusted = [max((6 - i) * p[i] for i in range(k + 1)) for k in range(6)]  # Holm (1979)
    assert sorted(comparison.p_holm or 0 for comparison in comparisons) == pytest.approx(
        [min(1, value) for value in adjusted]
    )


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        (four("mlp", FAILED, (0.3, 0.2, 0.9)), "cures"),
        (four("mlp", FAILED, (30.0, 31.0, 30.5)), "cures in part"),
        (four("mlp", FAILED, (79.0, 86.0, 82.0)), "does not cure"),
        (four("mlp", (0.3, 0.2, 0.9), (0.1, 0.2, 0.1)), "no degradation"),
        (four("mlp", FITTED, FITTED, plain_shallow=(9.0, 9.2, 9.1)), "no degradation"),  # deeper is better
        (
            four("mlp", FAILED, FITTED, plain_shallow=(20.0, 21.0, 20.5)),
            "not enough evidence",
        ),  # shallow has not learnt
        (four("mlp", FAILED, (10.0, 79.0, 30.0)), "not enough evidence"),  # lower on average, but seeds disagree
        (four("mlp", FAILED, (0.1, 4.0, 2.0)), "lowers the error"),  # a rise of 2 points is not excluded
        (four("mlp", FAILED, (4.0, 0.5, 0.1)), "lowers the error"),  # nor is a fall
        (four("mlp", FAILED, (89.0, 90.0, 90.0), plain_shallow=FITTED), "does not cure"),
        (four("mlp", (1.0, 80.0, 5.0), FITTED), "not enough evidence"),  # a rise on average, but seeds disagree
    ],
)
def test_outcomes(errors, expected):
    assert outcome(errors)["mlp", "train"] == expected


def test_a_clear_rise_below_two_points_is_named():
    """Too small for degradation, and no proof that depth does not hurt."""
    rise = (1.3, 1.65, 1.5)
    for errors, words in (
        (four("mlp", rise, FITTED), "without"),
        (four("mlp", FITTED, rise), "with"),
        (four("mlp", rise, rise), "without and with"),
    ):
        found = architecture_effects(runs(errors))
        assert found[0].outcome == "no degradation"
        assert found[0].sentence.endswith(f" A rise of less than 2 points is clear {words} the addition.")
    none = architecture_effects(runs(four("mlp", (0.3, 0.2, 0.9), FITTED)))
    assert "A rise of less" not in none[0].sentence
    assert OUTCOMES["no degradation"] == "a rise of 2 points or more with depth is ruled out without the addition"


def test_a_run_that_ends_in_nan_counts_as_the_worst():
    found = architecture_effects(runs(four("mlp", FAILED, FITTED), diverged={("mlp", "plain", "deep", 1)}))
    assert found[0].plain.points[1] == pytest.approx(99.6)
    assert found[0].plain.num_diverged == 1


def test_one_seed_is_not_enough_and_the_command_adds_some():
    found = architecture_effects(runs(four("mlp", FAILED, FITTED), seeds=(0,)))
    assert found[0].outcome == "not enough evidence"
    assert missing_evidence(found, "out") == (
        "One seed says nothing about a difference; three or more do:",
        "resnetlab study --preset everywhere --out out --seeds 3",
    )


def test_a_rise_that_is_neither_clear_nor_excluded_needs_seeds():
    found = architecture_effects(runs(four("mlp", FAILED, (0.1, 3.0, 1.5))))
    assert found[0].outcome == "lowers the error"
    sentence, command = missing_evidence(found, "out") or ("", "")
    assert "seeds would show whether mlp-residual-32 still errs more than mlp-residual-8" in sentence
    count = int(command.split()[-1])
    mean, std = found[0].residual.mean, found[0].residual.std
    assert mean == pytest.approx(1.3)
    assert std is not None

    def decides(num):
        p = 2 * t.sf(mean * num**0.5 / std, num - 1)
        return 3 * p < 0.05 or mean + t.ppf(0.975, num - 1) * std / num**0.5 < 2

    assert decides(count)
    assert not any(decides(num) for num in range(4, count))


def test_the_seeds_that_a_tie_lacks():
    found = architecture_effects(runs(four("mlp", (10.0, 30.0, 20.0), FITTED)))
    assert found[0].outcome == "not enough evidence"
    sentence, command = missing_evidence(found, "my folder") or ("", "")
    assert sentence.startswith("Seeds differ too much for a result on Deep MLP.")
    seeds = int(sentence.split(" seeds would")[0].split()[-1])
    assert 3 < seeds < 10
    assert command == f"resnetlab study --preset everywhere --out 'my folder' --seeds {seeds}"


@pytest.mark.parametrize(
    ("options", "longer"), [((), "--epochs 20"), (("--epochs", "2"), "--epochs 4"), (("--steps", "7"), "--steps 14")]
)
def test_networks_that_have_not_learnt_need_longer_runs(options, longer):
    found = architecture_effects(runs(four("mlp", FAILED, FITTED, plain_shallow=(20.0, 21.0, 20.5))))
    sentence, command = missing_evidence(found, "out", *options) or ("", "")
    assert sentence == "The shallow plain networks have not learnt (Deep MLP); longer runs:"
    assert command == f"resnetlab study --preset everywhere {longer} --out out-longer"


def test_a_decided_architecture_lacks_nothing():
    assert missing_evidence(architecture_effects(runs(four("mlp", FAILED, FITTED))), "out") is None


def test_architectures_without_all_networks_are_left_out():
    errors = {key: value for key, value in four("mlp", FAILED, FITTED).items() if key[1] == "plain"}
    assert architecture_effects(runs(errors)) == []
    assert outcome({**errors, **four("vgg", FAILED, FITTED)}).keys() == {("vgg", "train"), ("vgg", "test")}


def test_a_failed_run_is_left_out():
    made = runs(four("mlp", FAILED, FITTED))
    failed = [
        dataclasses.replace(run, status="failed", result={"status": "failed", "error": "killed"})
        if run.directory.name == "digits-mlp-plain-32-seed1"
        else run
        for run in made
    ]
    assert set(architecture_effects(failed)[0].plain.points) == {0, 2}
