"""Planning a run for a folder of images: what is measured, what is asked, and what the configuration says."""

import dataclasses
import itertools

import numpy as np
import pytest
from PIL import Image

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing
from resnetlab.models.cost import cost_of_config
from resnetlab.models.model_card import ModelCard
from resnetlab.models.model_file import save_model
from resnetlab.models.zoo import build_model
from resnetlab.training import plan_run as module
from resnetlab.training.execution.execution import Execution
from resnetlab.training.plan_run import SCRATCH, PlanRequest, plan_run
from resnetlab.training.recipes import recipe


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of 40 photographs in two classes, of 260 x 240 pixels and of 36 x 32."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name, shape in (("large", (240, 260, 3)), ("small", (36, 32, 3))):
        for kind, index in itertools.product(("cat", "dog"), range(20)):
            (root / name / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(root / name / kind / f"{index}.jpg")
    return root


@pytest.fixture
def machine(monkeypatch):
    """A machine of `macs_per_s`, and the networks that were measured on it."""
    state = {"macs_per_s": 1e10, "measured": [], "here": set()}

    def select(config, model, batch, *, load, log):
        state["measured"].append((config.model.name, load))
        macs = cost_of_config(config.model, batch(2)[0].shape[-1]).macs
        speed = state["macs_per_s"] / (3 * macs)
        return Execution("bf16", threads=2, images_per_s={"bf16 + 2 threads": speed, "fp32": speed / 2}), None

    monkeypatch.setattr(module, "select_execution", select)
    monkeypatch.setattr(module, "is_cached", lambda entry: entry.name in state["here"])
    return state


def plan(folder, *, agree=True, model=None, **more):
    asked = []
    request = PlanRequest(DataConfig(str(folder)), model=model, **more)
    planned = plan_run(request, lambda name: asked.append(name) or agree)
    return planned, asked


def expected_s(planned):
    assert planned.expected_s is not None
    return planned.expected_s


def test_photographs_are_fine_tuned_within_an_hour(folders, machine):
    planned, asked = plan(folders / "large")
    config = planned.config
    assert asked == ["resnet18.tv_in1k"]
    assert (config.model.name, config.weights, config.recipe.name) == ("resnet18", "resnet18.tv_in1k", "finetune")
    assert (config.recipe.epochs, config.recipe.batch_size, config.recipe.keep) == (20, 16, "best")
    assert (config.precision, config.layout, config.compile, config.threads) == ("bf16", "channels_last", "off", 2)
    assert config.data.image_size is None  # that of the weights
    assert 300 < expected_s(planned) < 600
    assert [name for name, _ in machine["measured"]] == ["resnet18"]


def test_without_consent_the_weights_are_random_and_the_recipe_another(folders, machine):
    config = plan(folders / "large", agree=False)[0].config
    assert (config.model.name, config.weights, config.recipe.name) == ("resnet18", None, "scratch")
    assert config.recipe.epochs > 20
    assert config.data.image_size is None or config.data.image_size == 224


def test_weights_of_a_network_without_a_common_name(folders, machine, tmp_path):
    model = ModelConfig(name="custom", stage_blocks=(1, 1), stage_channels=(4, 8), stem="cifar", num_classes=10)
    card = ModelCard(model, tuple("0123456789"), Preprocessing(32, (0.5,) * 3, (0.25,) * 3))
    save_model(tmp_path / "own.safetensors", build_model(model), card)
    config = plan(folders / "small", weights=str(tmp_path / "own.safetensors"))[0].config
    assert config.model == dataclasses.replace(model, num_classes=2)
    assert config.recipe.name == "finetune"


def test_scratch_asks_nothing(folders, machine):
    planned, asked = plan(folders / "large", weights=SCRATCH)
    assert (asked, planned.config.weights, planned.config.recipe.name) == ([], None, "scratch")


def test_a_fast_machine_gets_the_larger_network(folders, machine):
    machine["macs_per_s"] = 1e14
    planned, asked = plan(folders / "large", minutes=10)
    assert (planned.config.model.name, asked) == ("resnet50", ["resnet50.tv2_in1k"])
    machine["measured"].clear()
    declined = plan(folders / "large", agree=False, minutes=10)[0].config
    assert (declined.model.name, declined.weights) == ("resnet18", None)
    assert [name for name, _ in machine["measured"]] == ["resnet18", "resnet50", "resnet18"]


def test_weights_that_are_here_come_before_a_download(folders, machine):
    assert plan(folders / "large")[0].config.model.name == "resnet18"
    machine["here"] = {"resnet50.tv2_in1k"}
    assert plan(folders / "large")[0].config.model.name == "resnet50"
    machine["macs_per_s"] = 1e9  # more than an hour
    assert plan(folders / "large")[0].config.model.name == "resnet18"


def test_a_short_run_is_not_measured(folders, machine):
    planned, asked = plan(folders / "small", agree=False)
    assert (machine["measured"], planned.execution, planned.expected_s) == ([], None, None)
    assert asked == ["resnet20.akamaster_cifar10"]
    config = planned.config
    assert (config.model.name, config.model.num_classes, config.data.image_size) == ("resnet20", 2, 32)
    assert (config.precision, config.threads, config.recipe.crop) == ("auto", None, "pad")


def test_a_named_recipe_has_the_network_of_the_images(folders, machine):
    """And the weights if it is for fine-tuning; batch and length are the recipe's, and nothing is measured."""
    planned, asked = plan(folders / "large", recipe="finetune", changes={"batch_size": 8})
    config = planned.config
    assert (asked, config.model.name, config.weights) == (["resnet18.tv_in1k"], "resnet18", "resnet18.tv_in1k")
    assert (config.recipe.name, config.recipe.epochs, config.recipe.batch_size) == ("finetune", 20, 8)
    for folder, name, network, crop in (("small", "scratch", "resnet20", "pad"), ("large", "fast", "resnet18", "pad")):
        planned, asked = plan(folders / folder, recipe=name)
        config = planned.config
        assert (asked, config.weights, config.model.name) == ([], None, network)
        assert (config.recipe.name, config.recipe.crop, config.recipe.epochs) == (name, crop, recipe(name).epochs)
    assert machine["measured"] == []


def test_a_recipe_file_for_fine_tuning_gets_weights(folders, machine, tmp_path):
    (tmp_path / "mine.toml").write_text('base = "finetune"\nepochs = 4\n')
    planned, asked = plan(folders / "small", recipe=str(tmp_path / "mine.toml"))
    assert (asked, planned.config.recipe.epochs) == (["resnet20.akamaster_cifar10"], 4)
    planned, asked = plan(folders / "small", recipe=str(tmp_path / "mine.toml"), changes={"epochs": 1})
    assert (asked, planned.config.recipe.frozen_epochs) == (["resnet20.akamaster_cifar10"], 0)
    with pytest.raises(ConfigError, match=r"needs trained weights, such as --from resnet20\.akamaster_cifar10"):
        plan(folders / "small", recipe=str(tmp_path / "mine.toml"), agree=False)
    for weights, model in ((SCRATCH, None), (None, "resnet20")):
        with pytest.raises(ConfigError, match="recipe finetune needs trained weights; name a model file with --from"):
            plan(folders / "small", recipe="finetune", weights=weights, model=model)


def test_a_length_by_hand_is_kept_and_nothing_is_measured(folders, machine):
    for changes in ({"epochs": 3}, {"steps": 7}):
        config = plan(folders / "large", changes=changes)[0].config
        assert {name: getattr(config.recipe, name) for name in changes} == changes
        assert config.compile == "auto"  # measured once the images are open
    assert machine["measured"] == []


def test_what_the_user_gives_is_kept(folders, machine):
    given = {"model": "resnet34", "changes": {"lr": 0.5, "batch_size": 8}, "run_fields": {"seed": 3, "compile": "on"}}
    config = plan(folders / "large", **given)[0].config
    assert (config.model.name, config.weights, config.recipe.lr, config.recipe.batch_size) == ("resnet34", None, 0.5, 8)
    assert (config.seed, config.compile) == (3, "on")


def test_minutes_fit_image_size_and_length(folders, machine):
    machine["macs_per_s"] = 1e11
    for minutes in (0.2, 1, 3, 30):
        planned, _ = plan(folders / "large", minutes=minutes)
        assert planned.config.minutes == minutes
        assert expected_s(planned) <= 60 * minutes
        assert expected_s(planned) > 30 * minutes or planned.config.recipe.epochs == 60
    tight = plan(folders / "large", minutes=0.1)[0].config
    assert tight.data.image_size in (128, 160, 192)
    assert tight.recipe.epochs < 20
    small = plan(folders / "small", minutes=0.5)[0].config
    assert small.data.image_size is None or small.data.image_size == 32
    assert machine["measured"][-1][1].slow_s >= 60


def test_what_counts_epochs_follows_a_planned_length(folders, machine):
    """Less than an epoch and one epoch: a warm-up of a fifth of the run, and all layers learn."""
    for minutes, has_steps in ((0.12, True), (0.2, False)):  # an epoch has 8 steps of 4 images
        short = plan(folders / "large", weights=SCRATCH, minutes=minutes, changes={"batch_size": 4})[0].config.recipe
        assert (short.steps is not None, short.epochs) == (has_steps, 100 if has_steps else 1)
        assert short.warmup_epochs == pytest.approx((short.steps or 8) / 8 / 5)
        assert plan(folders / "large", minutes=minutes)[0].config.recipe.frozen_epochs == 0
    assert plan(folders / "large", changes={"steps": 3})[0].config.recipe.frozen_epochs == 0
    assert plan(folders / "large", changes={"steps": 4})[0].config.recipe.frozen_epochs == 1
    given = {"warmup_epochs": 0.5, "train_sizes": ((0, 24), (0.5, 32)), "frozen_epochs": 1}
    kept = plan(folders / "large", minutes=0.12, changes=given)[0].config.recipe
    assert {name: getattr(kept, name) for name in given} == given


@pytest.mark.parametrize(("minutes", "compiled"), [(60, "off"), (61, "auto"), (600, "auto")])
def test_compilation_is_open_for_more_than_an_hour(folders, machine, minutes, compiled):
    assert plan(folders / "large", weights=SCRATCH, minutes=minutes)[0].config.compile == compiled


def test_minutes_fit_a_named_data_set_and_a_named_recipe(machine):
    machine["macs_per_s"] = 1e11
    request = PlanRequest(DataConfig("cifar10"), minutes=10.0)
    config = plan_run(request, lambda name: pytest.fail("asked")).config
    assert (config.recipe.name, config.recipe.steps, config.data.image_size) == ("cifar-paper", None, None)
    assert 5 <= config.recipe.epochs < 10
    fast = plan_run(dataclasses.replace(request, recipe="fast"), lambda name: False).config
    assert fast.recipe.name == "fast"


def test_data_that_cannot_be_read_are_named(tmp_path, machine):
    with pytest.raises(ConfigError):
        plan(tmp_path)
