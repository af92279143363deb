"""Presets: the grid of each, and options that override its settings."""

from pathlib import Path

import pytest

from resnetlab.cli.study import Options, build_grid
from resnetlab.config import ConfigError, DataConfig
from resnetlab.literature.ablations import ABLATIONS, published_ablations
from resnetlab.study import api
from resnetlab.study.grid import run_name
from resnetlab.study.preset_grid import default_folder
from resnetlab.study.presets import PRESETS, get_preset
from resnetlab.study.verdicts.rules import FAILING


def grid(**options):
    return build_grid(Options(**options), get_preset(options.get("preset")))


def test_presets_are_named_after_failing_verdicts_or_compare_arms_at_one_depth():
    failures = {name for name in PRESETS if name in {rule.kind for rule in FAILING}}
    assert failures == {"degradation", "vanishing", "exploding", "overfitting"}
    others = {name: len(preset.depths) for name, preset in PRESETS.items() if name not in failures}
    assert others == {"shortcuts": 1, "preactivation": 1, "everywhere": 0}
    assert [name for name, preset in PRESETS.items() if preset.architectures] == ["everywhere"]


@pytest.mark.parametrize(
    ("preset", "networks"),
    [
        ("shortcuts", {"plain20", "resnet20-A", "resnet20-B", "resnet20-C"}),
        ("preactivation", {"resnet56", "resnet56-preact", "resnet56-no-last-relu", "resnet56-bn-after-addition"}),
    ],
)
def test_presets_of_arms_compare_networks_of_equal_depth(preset, networks):
    runs = grid(preset=preset).runs()
    assert {run.model.name for run in runs} == networks
    assert {run.model.depth for run in runs} == set(PRESETS[preset].depths)
    assert len({run.seed for run in runs}) == PRESETS[preset].num_seeds
    on_cifar = grid(preset=preset, data=("cifar10",), seeds=2).runs()
    assert ({run.recipe.name for run in on_cifar}, len(on_cifar)) == ({"cifar-paper"}, 8)


def test_published_numbers_stand_beside_the_arms_of_a_preset():
    (table_3,) = published_ablations(PRESETS["shortcuts"].arms)
    assert table_3.sentence.startswith("C 24.19 %, B 24.52 %, A 25.03 %, plain 28.54 % (34 layers on ImageNet")
    assert table_3.errors_pct == ABLATIONS[0].errors_pct
    sources = [ablation.source for ablation in published_ablations(PRESETS["preactivation"].arms)]
    assert len(sources) == 3
    assert published_ablations(PRESETS["degradation"].arms) == []


def test_the_default_study_is_degradation():
    assert grid() == grid(preset="degradation")
    runs = grid().runs()
    assert (len(runs), {run.model.depth for run in runs}) == (18, {20, 56})
    assert {run.model.norm for run in runs} == {"batch"}
    capped = [run for run in runs if run.recipe.max_update is not None]
    assert len(capped) == 6
    assert {run.model.shortcut for run in capped} == {"none"}


def test_vanishing_and_exploding_lack_normalisation():
    for name, scale in (("vanishing", 0.9), ("exploding", 2.0)):
        models = {run.model for run in grid(preset=name).runs()}
        assert {(model.norm, model.init_scale, model.shortcut) for model in models} == {("none", scale, "none")}


def test_overfitting_compares_numbers_of_images():
    runs = grid(preset="overfitting").runs()
    assert {run.data.train_images for run in runs} == {50, None}
    assert "digits-residual-56-50images-seed0" in {run_name(run) for run in runs}
    assert len({run_name(run) for run in runs}) == len(runs) == 12


class PlannedError(Exception):
    """Carries the grid of a study that is not executed."""


@pytest.mark.parametrize(
    ("preset", "recipe", "length"),
    [
        ("overfitting", None, (300, None)),
        ("overfitting", "finetune", (None, 20)),
        ("overfitting", "cifar-paper", (64_000, None)),
        ("vanishing", None, (None, 10)),
        ("vanishing", "finetune", (None, 20)),
        ("degradation", "finetune", (None, 20)),
    ],
)
def test_a_recipe_that_is_named_has_its_own_length(monkeypatch, preset, recipe, length):
    """On the command line as in Python."""

    def execute(planned, *_, **options):
        raise PlannedError(planned)

    monkeypatch.setattr(api, "_execute", execute)
    with pytest.raises(PlannedError) as caught:
        api.study(preset=preset, recipe=recipe, depths=[8, 14], arms=["residual"])
    for planned in (grid(preset=preset, recipe=recipe, depths=(8, 14), arms=("residual",)), caught.value.args[0]):
        (training,) = {dataset.recipe for dataset in planned.datasets}
        assert (training.steps, training.steps is None and training.epochs) == (length[0], length[1] or False)
    longer = grid(preset=preset, recipe=recipe, epochs=3)
    assert {(dataset.recipe.steps, dataset.recipe.epochs) for dataset in longer.datasets} == {(None, 3)}


def test_options_override_a_preset():
    changed = grid(preset="vanishing", depths=(14,), arms=("C",), init_scale=0.5, epochs=1, lr=0.1, train_images=(9, 0))
    run = changed.runs()[0]
    assert (run.model.name, run.model.init_scale, run.recipe.epochs, run.recipe.lr) == ("resnet14-C", 0.5, 1, 0.1)
    assert {run.data.train_images for run in changed.runs()} == {9, None}
    assert grid(preset="overfitting", epochs=2).runs()[0].recipe.steps is None


def test_each_data_set_has_its_own_recipe(tmp_path):
    (tmp_path / "cat").mkdir()
    runs = grid(data=("digits", str(tmp_path)), image_size=32).runs()
    assert {(run.data.name, run.recipe.name, run.data.image_size) for run in runs} == {
        ("digits", "digits", 32),
        (str(tmp_path), "cifar-paper", 32),
    }


def test_identity_init_deepens_the_shallowest_plain_network_to_the_greatest_depth():
    pairs = list(grid(depths=(20, 8, 14)).identity_init_pairs())
    assert [(shallow.model.name, deep.model.name, deep.seed) for shallow, deep in pairs] == [
        ("plain8", "plain20", seed) for seed in (0, 1, 2)
    ]
    for without in (
        grid(no_identity_init=True),
        grid(arms=("residual",)),
        grid(depths=(20,)),
        grid(preset="exploding"),
    ):
        assert not list(without.identity_init_pairs())


@pytest.mark.parametrize(
    ("names", "preset", "path"),
    [
        (["digits"], None, "studies/digits"),
        (["digits"], "vanishing", "studies/digits-vanishing"),
        (["digits", "some/photos"], None, "studies/digits+photos"),
    ],
)
def test_default_folder(names, preset, path):
    assert default_folder([DataConfig(name) for name in names], preset) == Path(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"preset": "vanish"}, "preset 'vanish' is unknown; known: degradation"),
        ({"train_images": (-1,)}, "at least 2, or 0 for all of them, not -1"),
        ({"train_images": (1,)}, "train_images must be at least 2, not 1"),
        ({"train_images": (50, 50)}, "data digits is given twice"),
        ({"data": ("digits", "digits")}, "data digits is given twice"),
        ({"data": ()}, "no data given; name at least one with --data"),
        ({"arms": ("residual", "A")}, "residual and A are the same network"),
        ({"arms": ("A", "bottleneck"), "depths": (32,)}, "9n\\+2"),
        ({"init_scale": 0.0}, "init_scale must be above 0"),
        ({"data": ("nowhere",)}, "neither a known data set"),
    ],
)
def test_invalid_options(options, message):
    with pytest.raises(ConfigError, match=message):
        grid(**options)
