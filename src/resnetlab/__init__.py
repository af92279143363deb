"""resnetlab: deep residual learning, from the degradation experiment to a network in production.

Networks
    build_model, model_config, ResNet, cost, Cost, deepen, Block, register_block, ModelConfig
Published weights
    list_weights, PretrainedWeights, push_model, check_weights, WeightCheck
Data
    open_data, Dataset, Split, DataConfig, Preprocessing, register_augmentation
Training
    fit, Trainer, TrainResult, Callback, StepMetrics, Progress, RuntimeOptions, ProcessGroup, StopSignal,
    Checkpoint, recipe, Recipe, RunConfig, register_optimizer, register_schedule, register_recipe, ScheduleInput,
    find_lr, LrSweep, LrCurve
Studies
    study, Study, Contrast
Evaluation and prediction
    evaluate, Evaluation, ChanceLevel, SplitScore, load, Predictor, Prediction,
    evaluate_multi_label, MultiLabelEvaluation, LabelMetrics
Looking into networks
    lesion, LesionResult, landscape, LandscapeResult
Files
    load_model, save_model, ModelCard
Errors
    ConfigError (a mistake in the call), DivergedError, InterruptedRunError, UnsavedError, ModelFileError,
    DownloadError, UploadError

`fit` trains in a run directory; `Trainer` trains in memory. The command line is `resnetlab --help`.
Names load what they need when they are first used, so `import resnetlab` is quick and does not load PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing, Recipe, RunConfig
    from resnetlab.data.augmentation import register_augmentation
    from resnetlab.data.dataset import Dataset, Split
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.chance import ChanceLevel
    from resnetlab.evaluation.evaluate import evaluate
    from resnetlab.evaluation.evaluate_multi_label import evaluate_multi_label
    from resnetlab.evaluation.label_metrics import LabelMetrics, MultiLabelEvaluation
    from resnetlab.evaluation.landscapes.landscape_models import LandscapeResult
    from resnetlab.evaluation.landscapes.landscape_networks import landscape
    from resnetlab.evaluation.lesions.lesion import LesionResult
    from resnetlab.evaluation.lesions.lesion_models import lesion
    from resnetlab.evaluation.metrics import Evaluation
    from resnetlab.evaluation.protocols import SplitScore
    from resnetlab.evaluation.self_check.check_weights import WeightCheck, check_weights
    from resnetlab.inference.predictor import Prediction, Predictor, load
    from resnetlab.models.block_registry import register_block
    from resnetlab.models.blocks import Block
    from resnetlab.models.cost import Cost, cost
    from resnetlab.models.deepen import deepen
    from resnetlab.models.model_card import ModelCard, ModelFileError
    from resnetlab.models.model_file import load_model, save_model
    from resnetlab.models.pretrained.catalogue import PretrainedWeights
    from resnetlab.models.pretrained.push import UploadError, push_model
    from resnetlab.models.pretrained.resolve import list_weights
    from resnetlab.models.resnet import ResNet
    from resnetlab.models.zoo import build_model, model_config
    from resnetlab.study.api import study
    from resnetlab.study.statistics.contrasts import Contrast
    from resnetlab.study.study_results import Study
    from resnetlab.system.download import DownloadError
    from resnetlab.system.process_group import ProcessGroup
    from resnetlab.training.callbacks import Callback
    from resnetlab.training.fit import fit
    from resnetlab.training.lr_finder import LrCurve, LrSweep, find_lr
    from resnetlab.training.metrics import Progress, StepMetrics
    from resnetlab.training.optimizers.lr_schedule import ScheduleInput, register_schedule
    from resnetlab.training.optimizers.optimizer import register_optimizer
    from resnetlab.training.recipes import recipe, register_recipe
    from resnetlab.training.reports import TrainResult
    from resnetlab.training.run_files.checkpoint import Checkpoint
    from resnetlab.training.run_files.checkpoint_manager import UnsavedError
    from resnetlab.training.runtime_options import RuntimeOptions
    from resnetlab.training.signal_handling import InterruptedRunError, StopSignal
    from resnetlab.training.train_step import DivergedError
    from resnetlab.training.trainer import Trainer

__version__ = "0.1.0"

_MODULES = {
    "config": ("ConfigError", "DataConfig", "ModelConfig", "Preprocessing", "Recipe", "RunConfig"),
    "data.augmentation": ("register_augmentation",),
    "data.dataset": ("Dataset", "Split"),
    "data.open_dataset": ("open_data",),
    "evaluation.chance": ("ChanceLevel",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.evaluate_multi_label": ("evaluate_multi_label",),
    "evaluation.label_metrics": ("LabelMetrics", "MultiLabelEvaluation"),
    "evaluation.landscapes.landscape_models": ("LandscapeResult",),
    "evaluation.landscapes.landscape_networks": ("landscape",),
    "evaluation.lesions.lesion": ("LesionResult",),
    "evaluation.lesions.lesion_models": ("lesion",),
    "evaluation.metrics": ("Evaluation",),
    "evaluation.protocols": ("SplitScore",),
    "evaluation.self_check.check_weights": ("WeightCheck", "check_weights"),
    "inference.predictor": ("Prediction", "Predictor", "load"),
    "models.block_registry": ("register_block",),
    "models.blocks": ("Block",),
    "models.cost": ("Cost", "cost"),
    "models.deepen": ("deepen",),
    "models.model_card": ("ModelCard", "ModelFileError"),
    "models.model_file": ("load_model", "save_model"),
    "models.pretrained.catalogue": ("PretrainedWeights",),
    "models.pretrained.push": ("UploadError", "push_model"),
    "models.pretrained.resolve": ("list_weights",),
    "models.resnet": ("ResNet",),
    "models.zoo": ("build_model", "model_config"),
    "study.statistics.contrasts": ("Contrast",),
    "study.study_results": ("Study",),
    "system.download": ("DownloadError",),
    "system.process_group": ("ProcessGroup",),
    "training.callbacks": ("Callback",),
    "training.run_files.checkpoint": ("Checkpoint",),
    "training.run_files.checkpoint_manager": ("UnsavedError",),
    "training.fit": ("fit",),
    "training.lr_finder": ("LrCurve", "LrSweep", "find_lr"),
    "training.optimizers.lr_schedule": ("ScheduleInput", "register_schedule"),
    "training.metrics": ("Progress", "StepMetrics"),
    "training.optimizers.optimizer": ("register_optimizer",),
    "training.recipes": ("recipe", "register_recipe"),
    "training.reports": ("TrainResult",),
    "training.runtime_options": ("RuntimeOptions",),
    "training.signal_handling": ("InterruptedRunError", "StopSignal"),
    "training.train_step": ("DivergedError",),
    "training.trainer": ("Trainer",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "build_model",
    "model_config",
    "ResNet",
    "cost",
    "Cost",
    "deepen",
    "Block",
    "register_block",
    "ModelConfig",
    "list_weights",
    "PretrainedWeights",
    "push_model",
    "check_weights",
    "WeightCheck",
    "open_data",
    "Dataset",
    "Split",
    "DataConfig",
    "Preprocessing",
    "register_augmentation",
    "fit",
    "Trainer",
    "TrainResult",
    "Callback",
    "StepMetrics",
    "Progress",
    "RuntimeOptions",
    "ProcessGroup",
    "StopSignal",
    "Checkpoint",
    "recipe",
    "Recipe",
    "RunConfig",
    "register_optimizer",
    "register_schedule",
    "register_recipe",
    "ScheduleInput",
    "find_lr",
    "LrSweep",
    "LrCurve",
    "study",
    "Study",
    "Contrast",
    "evaluate",
    "Evaluation",
    "ChanceLevel",
    "SplitScore",
    "evaluate_multi_label",
    "MultiLabelEvaluation",
    "LabelMetrics",
    "lesion",
    "LesionResult",
    "landscape",
    "LandscapeResult",
    "load",
    "Predictor",
    "Prediction",
    "load_model",
    "save_model",
    "ModelCard",
    "ConfigError",
    "DivergedError",
    "InterruptedRunError",
    "UnsavedError",
    "ModelFileError",
    "DownloadError",
    "UploadError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "study":  # the package, which is the function too
        return importlib.import_module("resnetlab.study")
    if name not in _HOME:
        raise AttributeError(f"module 'resnetlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"resnetlab.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
