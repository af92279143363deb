"""Advised commands are accepted: what no command can make is said in words instead."""

import dataclasses
import shlex

import pytest

from helpers.synthetic_groups import grid, with_recipe
from helpers.synthetic_runs import synthetic_run
from resnetlab.cli.main import parse
from resnetlab.cli.study import Options, build_grid
from resnetlab.extension import OPTIMIZERS, SCHEDULES
from resnetlab.study import study_command as module
from resnetlab.study.arms import arm_network
from resnetlab.study.executors.own_code import OwnCode
from resnetlab.study.presets import get_preset
from resnetlab.study.statistics.arm_comparisons import arm_comparisons
from resnetlab.study.statistics.comparison_evidence import comparison_evidence
from resnetlab.study.study_command import Additions, command_obstacle, study_command
from resnetlab.study.verdicts.verdict import verdicts, without_repetition
from resnetlab.training.recipes import RECIPES, register_recipe

ONE_SEED = grid("plain", [1.0], [70.0])
MORE = Additions(num_seeds=3)


def grid_of(command):
    words = shlex.split(command)
    assert words[:2] == ["resnetlab", "study"]
    return build_grid(parse(Options, "study", words[2:]), get_preset(None))


def at(arm, depth, errors=(1.0, 1.5, 1.2)):
    return [synthetic_run(arm, depth, seed, error) for seed, error in enumerate(errors)]


def evidence(runs):
    (found,) = comparison_evidence(runs, arm_comparisons(runs))
    return found


def with_data(runs, **changes):
    return [
        dataclasses.replace(
            run, config=dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, **changes))
        )
        for run in runs
    ]


@pytest.mark.parametrize("changes", [{"split_seed": 3}, {"resident_mib": 7}, {"max_megapixels": 9}])
def test_settings_of_data_without_an_option_get_no_command(changes):
    (name, value), *_ = changes.items()
    (verdict,) = verdicts(with_data(ONE_SEED, **changes))
    assert (verdict.kind, verdict.command) == ("not enough evidence", None)
    reason = (
        f"No command adds this: {name}={value} is no option of the command; resnetlab.study adds the runs from Python."
    )
    assert reason in verdict.sentence
    found = evidence(with_data([*at("plain", 20, [1.0]), *at("C", 20, [2.0])], **changes))
    assert found.command is None
    assert found.sentence.endswith(f"three or more do. {reason}")


def test_options_of_data_are_in_the_command():
    assert command_obstacle(with_data(ONE_SEED, image_size=8, on_bad_image="skip", root="/x"), MORE) is None


def test_what_a_script_has_registered_gets_no_command(monkeypatch):
    def own(*_): ...

    for registry, field in ((OPTIMIZERS, "optimizer"), (SCHEDULES, "schedule")):
        monkeypatch.setitem(registry._entries, "mine", own)
        runs = [with_recipe(run, **{field: "mine"}) for run in ONE_SEED]
        assert study_command(runs, MORE) is None
        assert f"the {field} mine is registered in a script" in (command_obstacle(runs, MORE) or "")
        assert command_obstacle(ONE_SEED, MORE) is None  # they do not use it
        monkeypatch.setattr(module, "is_installed_extension", lambda name: name == own.__module__)
        assert command_obstacle(runs, MORE) is None  # a package whose names the command loads
        monkeypatch.undo()


def test_a_block_of_a_script_gets_no_command(monkeypatch):
    own = OwnCode("block", "preact", at)
    monkeypatch.setattr(module, "registered_code", lambda: [own])
    for arms in (("preact",), ("plain", "preact-capped")):
        obstacle = command_obstacle(at("plain", 20), Additions(arms=arms))
        assert obstacle == "the block preact is registered in a script, which adds the runs with resnetlab.study"


def test_a_recipe_of_a_script_is_given_field_by_field(monkeypatch):
    mine = dataclasses.replace(RECIPES["digits"], name="mine", lr=0.02, epochs=3)
    monkeypatch.setitem(RECIPES, "mine", mine)
    runs = [dataclasses.replace(run, config=dataclasses.replace(run.config, recipe=mine)) for run in ONE_SEED]
    command = study_command(runs, MORE)
    monkeypatch.delitem(RECIPES, "mine")  # the process of the command does not know it
    (dataset,) = grid_of(command).datasets
    assert dataset.recipe == mine


def test_arms_without_a_common_depth_are_compared_where_all_fit():
    apart = evidence([*at("residual", 32), *at("bottleneck", 29)])
    assert "this makes every arm and seed at 56 layers, which fit all arms:" in apart.sentence
    made = grid_of(apart.command)
    assert (made.arms, made.depths) == (("residual", "bottleneck"), (56,))
    one = evidence([*at("residual", 20), *at("bottleneck", 29)])
    assert grid_of(one.command).depths == (20,)
    both = evidence([*at("residual", 20), *at("bottleneck", 56)])
    assert both.sentence.endswith("this makes every arm at every depth and seed:")
    assert grid_of(both.command).depths == (20, 56)


def test_each_arm_of_one_depth_gets_a_second_one_that_fits_it():
    found = without_repetition(verdicts([*at("residual", 32), *at("bottleneck", 29)]))
    assert [(grid_of(verdict.command).arms, grid_of(verdict.command).depths) for verdict in found] == [
        (("residual",), (32, 56)),
        (("bottleneck",), (29, 56)),
    ]


def test_two_names_of_one_network_get_no_command():
    found = evidence([*at("residual", 20, [1.0]), *at("A", 20, [2.0])])
    assert found.command is None
    assert found.sentence.endswith(
        "No command adds this: arms residual and A are the same network, option A; name one of them."
    )


def test_networks_that_no_study_makes_get_no_command():
    wide = dataclasses.replace(arm_network("plain", 20), stage_channels=(32, 64, 128))
    runs = [dataclasses.replace(run, config=dataclasses.replace(run.config, model=wide)) for run in at("plain", 20)]
    assert "a study makes other networks (stage_channels" in (command_obstacle(runs, MORE) or "")
    limited = [with_recipe(run, max_update=0.3) for run in at("plain", 20)]
    assert study_command(limited, MORE) is None


def test_a_block_with_a_norm_of_its_own_does_not_give_it_to_others():
    runs = [*at("fixup", 20), *at("residual", 20)]
    assert grid_of(study_command(runs, MORE)).norm == "batch"
    assert grid_of(study_command(runs[:3], MORE)).norm == "batch"


def test_a_registered_recipe_is_not_built_in():
    mine = dataclasses.replace(RECIPES["digits"], name="registered here")
    try:
        register_recipe(mine)
        assert mine.name not in module.BUILT_IN
    finally:
        RECIPES.pop(mine.name, None)
