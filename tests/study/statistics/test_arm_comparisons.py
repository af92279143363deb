"""Comparisons between arms on synthetic runs: against scipy's paired t test, Holm's own steps, and shuffled labels."""

import dataclasses
import io
import shlex

import pytest
from rich.console import Console
from scipy import stats

from helpers.synthetic_runs import synthetic_run
from resnetlab.cli.comparison_output import print_comparisons
from resnetlab.cli.main import parse
from resnetlab.cli.study import Options, build_grid
from resnetlab.study.architectures import architecture_effects
from resnetlab.study.presets import get_preset
from resnetlab.study.reports.report import StudyReport, render_page
from resnetlab.study.statistics.arm_comparisons import RULE, arm_comparisons, seeds_needed
from resnetlab.study.statistics.comparison_evidence import comparison_evidence
from resnetlab.study.statistics.multiple_comparisons import holm
from resnetlab.study.statistics.rankings import rankings


def arm(name, errors, depth=20, **options):
    return [synthetic_run(name, depth, seed, error, **options) for seed, error in enumerate(errors)]


A, B, C, PLAIN = [3.9, 4.2, 4.0], [4.1, 4.0, 4.3], [22.1, 23.0, 22.6], [9.0, 9.5, 9.1]
FOUR = [*arm("plain", PLAIN), *arm("A", A), *arm("B", B), *arm("C", C)]


def of(runs, first, second, split="train"):
    (found,) = [c for c in arm_comparisons(runs) if (c.first, c.second, c.setting.split) == (first, second, split)]
    return found


def test_the_numbers_are_those_of_scipy():
    found = of(FOUR, "A", "C")
    reference = stats.ttest_rel(C, A)
    interval = reference.confidence_interval()
    assert found.points == pytest.approx({0: 18.2, 1: 18.8, 2: 18.6})
    assert found.p == pytest.approx(reference.pvalue)
    assert found.interval == pytest.approx((interval.low, interval.high))


def test_holm_step_by_step():
    # by hand: 4 x 0.01, then 3 x 0.02, then max(0.06, 2 x 0.03), then max(0.06, 1 x 0.5)
    family = [0.5, 0.02, 0.01, 0.03]
    assert [holm(p, family) for p in family] == pytest.approx([0.5, 0.06, 0.04, 0.06])
    assert holm(0.9, [0.9, 0.8]) == 1.0


def test_every_two_arms_at_one_depth_are_compared_in_every_split():
    found = arm_comparisons(FOUR)
    assert len(found) == 6 * 3
    assert {c.num_comparisons for c in found} == {6}
    assert [(c.second, c.first) for c in found[:3]] == [("A", "plain"), ("B", "plain"), ("C", "plain")]


def test_ranking_has_ties_where_no_difference_is_clear():
    ranking = rankings(FOUR, arm_comparisons(FOUR))[0]
    assert [(place.arm, place.rank) for place in ranking.places] == [("A", 1), ("B", 1), ("plain", 3), ("C", 4)]
    assert ranking.sentence == "training error: A 4.03 % and B 4.13 % rank 1; plain 9.20 % ranks 3; C 22.57 % ranks 4"


def test_an_arm_that_is_compared_with_nothing_is_not_ranked():
    apart = [*arm("A", A[:2]), *arm("B", B[:2]), synthetic_run("C", 20, 2, 1.0)]
    assert of(apart, "A", "B").p_holm is not None
    assert rankings(apart, arm_comparisons(apart)) == []
    found = evidence(apart)
    assert found.sentence.startswith("A and C of digits, 20 layers have no seed in common, so the arms are not ranked")
    assert (grid_of(found.command).num_seeds, grid_of(found.command).arms) == (3, ("A", "B", "C"))
    whole = [*apart, *arm("A", [50.0], depth=56), *arm("B", [60.0], depth=56)]
    assert rankings(whole, arm_comparisons(whole)) == []  # another depth has one seed


def test_ranked_errors_are_means_over_the_seeds_that_all_arms_share():
    """A lacks seed 0, the best of the others."""
    late = [run for run in arm("A", [0.0, 4.2, 4.0]) if run.seed]
    runs = [*late, *arm("B", [1.0, 4.3, 4.1]), *arm("C", [1.0, 22.0, 22.4])]
    places = {place.arm: place.error_pct for place in rankings(runs, arm_comparisons(runs))[0].places}
    assert {name: stats.mean for name, stats in places.items()} == pytest.approx({"A": 4.1, "B": 4.2, "C": 22.2})
    assert {stats.count for stats in places.values()} == {2}
    cycle = {"A": (0, 1, 2, 3), "B": (2, 3, 4, 5), "C": (4, 5, 0, 1)}  # every two share two seeds, all share none
    none = [synthetic_run(name, 20, seed, 5.0 + seed % 3) for name, seeds in cycle.items() for seed in seeds]
    assert len(arm_comparisons(none)) == 9
    assert rankings(none, arm_comparisons(none)) == []
    one = {"A": (0, 1, 2), "B": (0, 1, 3), "C": (0, 2, 3, 1)}  # seed 0 and 1 are shared by all, then seed 0 alone
    two = [synthetic_run(name, 20, seed, 5.0 + seed % 3) for name, seeds in one.items() for seed in seeds]
    assert len(rankings(two, arm_comparisons(two))) == 3
    fewer = [run for run in two if (run.arm, run.seed) != ("C", 1)]
    assert rankings(fewer, arm_comparisons(fewer)) == []


def test_the_correction_can_make_a_tie():
    """An interval that excludes zero is not enough beside many other comparisons."""
    two = [*arm("A", [3.0, 3.1, 3.2]), *arm("B", [3.5, 3.9, 3.8])]
    assert of(two, "A", "B").better == "A"
    many = [*two, *arm("plain", [3.2, 3.0, 3.7]), *arm("C", [3.6, 3.1, 3.3])]
    tie = of(many, "A", "B")
    assert (tie.better, tie.outcome) == (None, "tie after the correction")
    assert tie.p == pytest.approx(of(two, "A", "B").p)


def test_depths_are_compared_each_on_its_own():
    runs = [*FOUR, *arm("plain", [70.0, 72.0, 71.0], depth=56), *arm("A", [1.0, 1.2, 1.1], depth=56)]
    deep = [c for c in arm_comparisons(runs) if c.setting.depth == 56]
    assert [(c.first, c.second, c.better) for c in deep if c.setting.split == "train"] == [("plain", "A", "A")]
    assert {c.num_comparisons for c in arm_comparisons(runs)} == {7}


def test_a_run_that_ends_in_nan_is_the_worst_and_not_missing():
    nan = [synthetic_run("C", 20, seed, None, status="diverged") for seed in range(3)]
    runs = [*arm("A", [0.0, 0.0, 0.0]), *arm("B", B), *nan]
    found = of(runs, "A", "C")
    assert (found.points, found.num_diverged) == ({0: 100.0, 1: 100.0, 2: 100.0}, 3)
    assert found.better == "A"
    ranking = rankings(runs, arm_comparisons(runs))[0]
    assert [(place.arm, place.error_pct.mean, place.num_diverged) for place in ranking.places][-1] == ("C", 100.0, 3)
    one = [*arm("A", A), *arm("C", [3.9, 4.0]), synthetic_run("C", 20, 2, None, status="diverged")]
    assert of(one, "A", "C").points[2] == 96.0
    assert of(one, "A", "C").better is None


def test_differences_that_agree_by_chance_vary_by_one_image_at_least():
    """Three seeds with one error more each: a deviation of zero would make any difference clear."""
    runs = [*arm("A", [1.0] * 3), *arm("B", [1.1] * 3)]
    sized = [dataclasses.replace(run, start={"data": {"num_train": 1000}}) for run in runs]
    assert of(sized, "A", "B").std == pytest.approx(0.1)
    assert of(sized, "A", "B").better is None


def test_failed_runs_and_runs_from_a_file_are_left_out():
    failed = dataclasses.replace(synthetic_run("B", 20, 0, 1.0), status="failed")
    deepened = synthetic_run("B", 20, 1, 1.0)
    deepened = dataclasses.replace(deepened, config=dataclasses.replace(deepened.config, weights="a.safetensors"))
    assert arm_comparisons([*arm("A", A), failed, deepened]) == []


def test_a_split_that_does_not_exist_is_not_compared():
    runs = [
        dataclasses.replace(run, result={**run.result, "test_error_pct": None}) for run in [*arm("A", A), *arm("B", B)]
    ]
    nan = synthetic_run("C", 20, 0, None, status="diverged")
    assert {c.setting.split for c in arm_comparisons([*runs, nan])} == {"train", "val"}


def test_shuffled_arms_are_ties():
    """The same records with the arms of each seed rotated: a clear difference was due to the label."""
    arms = ["plain", "A", "B", "C"]
    by_seed = dict(zip(arms, (PLAIN, A, B, C), strict=True))
    rotated = [
        synthetic_run(arms[(index + seed) % 4], 20, seed, by_seed[name][seed])
        for index, name in enumerate(arms)
        for seed in range(3)
    ]
    assert all(comparison.better is None for comparison in arm_comparisons(rotated))


def test_seeds_needed_separate_a_tie_whose_mean_and_deviation_stay():
    tie = of([*arm("A", [3.9, 4.2, 4.0]), *arm("B", [4.1, 4.6, 4.1])], "A", "B")
    count = seeds_needed(tie)
    assert tie.better is None
    assert count is not None

    def p(n):
        return 2 * stats.t.sf(tie.mean * n**0.5 / tie.std, n - 1)

    assert p(count) < 0.05 <= p(count - 1)
    assert seeds_needed(dataclasses.replace(tie, mean=0.0)) is None


def evidence(runs):
    (found,) = comparison_evidence(runs, arm_comparisons(runs))
    return found


def grid_of(command):
    words = shlex.split(command)
    assert words[:2] == ["resnetlab", "study"]
    return build_grid(parse(Options, "study", words[2:]), get_preset(None))


def test_what_is_missing_is_a_command():
    one_seed = evidence([*arm("A", A[:1]), *arm("B", B[:1])])
    assert "one seed" in one_seed.sentence
    assert (grid_of(one_seed.command).num_seeds, grid_of(one_seed.command).arms) == (3, ("A", "B"))
    tie = evidence([*FOUR, *arm("plain", [50.0, 52.0, 51.0], depth=56)])
    assert "seeds would separate" in tie.sentence
    grid = grid_of(tie.command)
    assert grid.num_seeds > 3
    assert set(grid.arms) < {"plain", "A", "B", "C"}
    apart = evidence([*arm("A", A), *arm("B", B, depth=56)])
    assert "no depth and seed in common" in apart.sentence
    assert (tie.kind, apart.kind) == ("ties", "not enough evidence")
    assert set(grid_of(apart.command).depths) == {20, 56}
    assert comparison_evidence(FOUR[:3], arm_comparisons(FOUR[:3])) == []


def test_equal_arms_need_no_more_seeds():
    same = evidence([*arm("A", A), *arm("B", A)])
    assert same.command is None
    assert same.sentence.endswith("100 seeds separate no pair by training error or test error.")


def test_seeds_that_contradict_each_other_rule_little_out():
    """Two seeds, +1 and −1: the interval is wide, and nothing is said about smaller differences."""
    wide = evidence([*arm("A", [10.0, 12.0]), *arm("B", [11.0, 11.0])])
    assert wide.command is None
    assert wide.sentence == (
        "3 of 3 comparisons are ties. At 95 %, each comparison alone, no difference of a tie exceeds 12.7 points. If "
        "mean and deviation stay as they are, 100 seeds separate no pair by training error or test error."
    )


def test_the_rules_name_what_repeated_looks_do():
    for rule in (RULE, architecture_effects.RULE):
        assert "a number of seeds that was fixed before the results were seen" in rule


def test_report_and_terminal_show_the_comparisons():
    study = StudyReport([dataclasses.replace(run, start={}, result={**run.result, "time_s": 1.0}) for run in FOUR])
    results = study.as_json()
    (row,) = [r for r in results["comparisons"] if (r["first"], r["second"], r["split"]) == ("A", "C", "test")]
    assert (row["better"], row["num_comparisons"]) == ("A", 6)
    page = render_page(study, [])
    assert "A 4.03 % and B 4.13 % rank 1; plain 9.20 % ranks 3; C 22.57 % ranks 4" in page
    assert "Holm" in page
    text = io.StringIO()
    print_comparisons(results, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert next(line.split() for line in lines if line.startswith("C minus A"))[-1] == "clear"
    assert next(line.split() for line in lines if line.startswith("B minus A"))[-1] == "tie"
    assert max(len(line) for line in lines if not line.startswith("  resnetlab")) <= 80
    assert [line for line in lines if line.startswith("  resnetlab study --data digits --arms")]


@pytest.mark.parametrize(
    ("arms", "seeds", "note"),
    [
        ("plain A", 3, "p of one comparison; clear: below 5 %, else a tie"),
        ("plain A B", 3, "p after Holm's correction for 3 comparisons; clear: below 5 %, else a tie"),
        ("plain A", 1, None),
    ],
)
def test_the_printed_rule_names_the_correction_that_was_made(arms, seeds, note):
    runs = [run for run in FOUR if run.arm in arms.split() and run.seed < seeds]
    study = StudyReport([dataclasses.replace(run, start={}, result={**run.result, "time_s": 1.0}) for run in runs])
    text = io.StringIO()
    print_comparisons(study.as_json(), Console(file=text, width=80))
    notes = [line for line in text.getvalue().splitlines() if line.startswith("p ")]
    assert notes == ([note] if note else [])
