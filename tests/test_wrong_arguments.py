"""Arguments of a wrong type: one line that says what is wanted, from every public function."""

from typing import Any

import pytest

import resnetlab as package
from resnetlab.config import ConfigError

resnetlab: Any = package  # the type checker would refuse these calls

CALLS = {
    "config must be a RunConfig, not 'digits'": lambda: resnetlab.Trainer("digits"),
    "callbacks must be a list of resnetlab.Callback, not": lambda: resnetlab.fit(
        resnetlab.RunConfig(), callbacks=resnetlab.Callback()
    ),
    "callbacks must be a list of resnetlab.Callback; <built-in": lambda: resnetlab.fit(
        resnetlab.RunConfig(), callbacks=[print]
    ),
    "options must be RuntimeOptions, not {'workers': 2}": lambda: resnetlab.fit(
        resnetlab.RunConfig(), options={"workers": 2}
    ),
    "model must be ModelConfig, not 'resnet20'": lambda: resnetlab.RunConfig("resnet20"),
    "data must be DataConfig, not 'digits'": lambda: resnetlab.RunConfig(data="digits"),
    "recipe must be Recipe, not 'digits'": lambda: resnetlab.RunConfig(recipe="digits"),
    "seed must be a whole number of at least 0, not '1'": lambda: resnetlab.RunConfig(seed="1"),
    "config must be DataConfig, not 'digits'": lambda: resnetlab.open_data("digits"),
    "model must be str or ModelConfig, not 3": lambda: resnetlab.build_model(3),
    "name must be str, not 20": lambda: resnetlab.model_config(20),
    "name must be str, not 3": lambda: resnetlab.recipe(3),
    "a recipe has no field epoch; did you mean epochs?": lambda: resnetlab.recipe("digits", epoch=3),
    "recipe must be Recipe, not 'mine'": lambda: resnetlab.register_recipe("mine"),
    "optimizer 'mine' must be a function of groups and recipe, not 3": lambda: resnetlab.register_optimizer("mine", 3),
    "model must be ResNet, not 'resnet20'": lambda: resnetlab.cost("resnet20", 32),
    "model must be ResNet, not 'resnet8'": lambda: resnetlab.deepen("resnet8", 14),
    "path must be str or Path, not 3": lambda: resnetlab.load_model(3),
    "folder must be str or Path, not 3": lambda: resnetlab.Study(3),
}


@pytest.mark.parametrize("message", CALLS)
def test_a_wrong_argument_is_one_line(message):
    with pytest.raises(ConfigError) as raised:
        CALLS[message]()
    assert str(raised.value).startswith(message)
    assert len(str(raised.value)) < 300
    assert "\n" not in str(raised.value)
