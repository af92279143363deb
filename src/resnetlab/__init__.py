"""resnetlab: deep residual learning, end to end.

The names below load what they need when they are first used, so that `import resnetlab` is quick.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing, Recipe, RunConfig
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.evaluate import evaluate
    from resnetlab.inference.predictor import Prediction, Predictor, load
    from resnetlab.models.blocks import register_block
    from resnetlab.models.cost import cost
    from resnetlab.models.deepen import deepen
    from resnetlab.models.model_file import load_model, save_model
    from resnetlab.models.resnet import ResNet
    from resnetlab.models.zoo import build_model, model_config
    from resnetlab.training.recipes import recipe
    from resnetlab.training.fit import fit

__version__ = "0.1.0"

_HOME = {
    "build_model": "models.zoo",
    "model_config": "models.zoo",
    "ResNet": "models.resnet",
    "register_block": "models.blocks",
    "cost": "models.cost",
    "deepen": "models.deepen",
    "load_model": "models.model_file",
    "save_model": "models.model_file",
    "fit": "training.fit",
    "recipe": "training.recipes",
    "open_data": "data.open_dataset",
    "evaluate": "evaluation.evaluate",
    "load": "inference.predictor",
    "Predictor": "inference.predictor",
    "Prediction": "inference.predictor",
    "ModelConfig": "config",
    "DataConfig": "config",
    "Preprocessing": "config",
    "Recipe": "config",
    "RunConfig": "config",
    "ConfigError": "config",
}

__all__ = [
    "build_model",
    "model_config",
    "ResNet",
    "register_block",
    "cost",
    "deepen",
    "load_model",
    "save_model",
    "fit",
    "recipe",
    "open_data",
    "evaluate",
    "load",
    "Predictor",
    "Prediction",
    "ModelConfig",
    "DataConfig",
    "Preprocessing",
    "Recipe",
    "RunConfig",
    "ConfigError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'resnetlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"resnetlab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
