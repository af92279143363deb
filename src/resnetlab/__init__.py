"""resnetlab: deep residual learning, from the degradation experiment to a network in production.

Networks
    build_model, model_config, ResNet, cost, Cost, LayerCost, deepen, ModelConfig
Blocks of your own
    register_block, Block, BasicBlock, Bottleneck, make_conv, make_norm, make_shortcut, relu
Published weights
    list_weights, PretrainedWeights, Publisher, RemoteFile, push_model,
    check_weights, WeightCheck, Finding, Wiring, PreprocessingScore, Normalisation
Data
    open_data, Dataset, Split, DataConfig, Preprocessing, register_augmentation
Training
    fit, Trainer, TrainResult, Callback, StepMetrics, Progress, RuntimeOptions, Execution, ProcessGroup, StopSignal,
    Checkpoint, recipe, Recipe, RunConfig, ArchitectureConfig, register_optimizer, register_schedule,
    register_recipe, ScheduleInput, find_lr, LrSweep, LrCurve
Studies
    study, Study, ArmComparison, Setting, TableRow, SeedStats, Verdict, Ranking, Place, Run
Evaluation and prediction
    evaluate, Evaluation, ErrorRate, ClassError, Confusion, ReliabilityBin, Mistake, CoveragePoint, LabelErrors,
    LabelError, ChanceLevel, SplitScore, load, Predictor, Prediction,
    evaluate_multi_label, MultiLabelEvaluation, LabelMetrics
Looking into networks
    lesion, LesionResult, BlockError, RemovalError, OrderError, PathGradients, landscape, LandscapeResult, Curvature
Files
    load_model, save_model, ModelCard, TemperatureScaling, MultiLabel
Errors
    ConfigError (a mistake in the call), DivergedError, InterruptedRunError, UnsavedError, ModelFileError,
    DownloadError, UploadError

`fit` trains in a run directory; `Trainer` trains in memory. The command line is `resnetlab --help`.
Names load what they need when they are first used, so `import resnetlab` is quick and does not load PyTorch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnetlab.architecture_config import ArchitectureConfig
    from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing, Recipe, RunConfig
    from resnetlab.data.augmentation import register_augmentation
    from resnetlab.data.dataset import Dataset, Split
    from resnetlab.data.open_dataset import open_data
    from resnetlab.evaluation.chance import ChanceLevel
    from resnetlab.evaluation.coverage import CoveragePoint
    from resnetlab.evaluation.error_rate import ErrorRate
    from resnetlab.evaluation.evaluate import evaluate
    from resnetlab.evaluation.evaluate_multi_label import evaluate_multi_label
    from resnetlab.evaluation.label_errors import LabelError, LabelErrors
    from resnetlab.evaluation.label_metrics import LabelMetrics, MultiLabelEvaluation
    from resnetlab.evaluation.landscapes.hessian import Curvature
    from resnetlab.evaluation.landscapes.landscape_models import LandscapeResult
    from resnetlab.evaluation.landscapes.landscape_networks import landscape
    from resnetlab.evaluation.lesions.lesion import BlockError, LesionResult, OrderError, RemovalError
    from resnetlab.evaluation.lesions.lesion_models import lesion
    from resnetlab.evaluation.lesions.path_gradients import PathGradients
    from resnetlab.evaluation.metrics import ClassError, Confusion, Evaluation, Mistake, ReliabilityBin
    from resnetlab.evaluation.protocols import SplitScore
    from resnetlab.evaluation.self_check.check_weights import WeightCheck, check_weights
    from resnetlab.evaluation.self_check.decision import Finding
    from resnetlab.evaluation.self_check.preprocessing_candidates import Normalisation, PreprocessingScore
    from resnetlab.evaluation.self_check.wirings import Wiring
    from resnetlab.inference.predictor import Prediction, Predictor, load
    from resnetlab.models.block_registry import register_block
    from resnetlab.models.blocks import BasicBlock, Block, Bottleneck, make_conv, make_norm, make_shortcut, relu
    from resnetlab.models.cost import Cost, LayerCost, cost
    from resnetlab.models.deepen import deepen
    from resnetlab.models.model_card import ModelCard, ModelFileError, MultiLabel, TemperatureScaling
    from resnetlab.models.model_file import load_model, save_model
    from resnetlab.models.pretrained.catalogue import PretrainedWeights, Publisher
    from resnetlab.models.pretrained.push import UploadError, push_model
    from resnetlab.models.pretrained.resolve import list_weights
    from resnetlab.models.resnet import ResNet
    from resnetlab.models.zoo import build_model, model_config
    from resnetlab.study.api import study
    from resnetlab.study.reports.report_table import TableRow
    from resnetlab.study.results import Run
    from resnetlab.study.statistics.arm_comparisons import ArmComparison, Setting
    from resnetlab.study.statistics.rankings import Place, Ranking
    from resnetlab.study.statistics.seed_stats import SeedStats
    from resnetlab.study.study_results import Study
    from resnetlab.study.verdicts.verdict import Verdict
    from resnetlab.system.download import DownloadError, RemoteFile
    from resnetlab.system.process_group import ProcessGroup
    from resnetlab.training.callbacks import Callback
    from resnetlab.training.execution.execution import Execution
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
    "architecture_config": ("ArchitectureConfig",),
    "config": ("ConfigError", "DataConfig", "ModelConfig", "Preprocessing", "Recipe", "RunConfig"),
    "data.augmentation": ("register_augmentation",),
    "data.dataset": ("Dataset", "Split"),
    "data.open_dataset": ("open_data",),
    "evaluation.chance": ("ChanceLevel",),
    "evaluation.coverage": ("CoveragePoint",),
    "evaluation.error_rate": ("ErrorRate",),
    "evaluation.evaluate": ("evaluate",),
    "evaluation.evaluate_multi_label": ("evaluate_multi_label",),
    "evaluation.label_errors": ("LabelError", "LabelErrors"),
    "evaluation.label_metrics": ("LabelMetrics", "MultiLabelEvaluation"),
    "evaluation.landscapes.hessian": ("Curvature",),
    "evaluation.landscapes.landscape_models": ("LandscapeResult",),
    "evaluation.landscapes.landscape_networks": ("landscape",),
    "evaluation.lesions.lesion": ("BlockError", "LesionResult", "OrderError", "RemovalError"),
    "evaluation.lesions.lesion_models": ("lesion",),
    "evaluation.lesions.path_gradients": ("PathGradients",),
    "evaluation.metrics": ("ClassError", "Confusion", "Evaluation", "Mistake", "ReliabilityBin"),
    "evaluation.protocols": ("SplitScore",),
    "evaluation.self_check.check_weights": ("WeightCheck", "check_weights"),
    "evaluation.self_check.decision": ("Finding",),
    "evaluation.self_check.preprocessing_candidates": ("Normalisation", "PreprocessingScore"),
    "evaluation.self_check.wirings": ("Wiring",),
    "inference.predictor": ("Prediction", "Predictor", "load"),
    "models.block_registry": ("register_block",),
    "models.blocks": ("BasicBlock", "Block", "Bottleneck", "make_conv", "make_norm", "make_shortcut", "relu"),
    "models.cost": ("Cost", "LayerCost", "cost"),
    "models.deepen": ("deepen",),
    "models.model_card": ("ModelCard", "ModelFileError", "MultiLabel", "TemperatureScaling"),
    "models.model_file": ("load_model", "save_model"),
    "models.pretrained.catalogue": ("PretrainedWeights", "Publisher"),
    "models.pretrained.push": ("UploadError", "push_model"),
    "models.pretrained.resolve": ("list_weights",),
    "models.resnet": ("ResNet",),
    "models.zoo": ("build_model", "model_config"),
    "study.reports.report_table": ("TableRow",),
    "study.results": ("Run",),
    "study.statistics.arm_comparisons": ("ArmComparison", "Setting"),
    "study.statistics.rankings": ("Place", "Ranking"),
    "study.statistics.seed_stats": ("SeedStats",),
    "study.study_results": ("Study",),
    "study.verdicts.verdict": ("Verdict",),
    "system.download": ("DownloadError", "RemoteFile"),
    "system.process_group": ("ProcessGroup",),
    "training.callbacks": ("Callback",),
    "training.execution.execution": ("Execution",),
    "training.fit": ("fit",),
    "training.lr_finder": ("LrCurve", "LrSweep", "find_lr"),
    "training.metrics": ("Progress", "StepMetrics"),
    "training.optimizers.lr_schedule": ("ScheduleInput", "register_schedule"),
    "training.optimizers.optimizer": ("register_optimizer",),
    "training.recipes": ("recipe", "register_recipe"),
    "training.reports": ("TrainResult",),
    "training.run_files.checkpoint": ("Checkpoint",),
    "training.run_files.checkpoint_manager": ("UnsavedError",),
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
    "LayerCost",
    "deepen",
    "Block",
    "BasicBlock",
    "Bottleneck",
    "make_conv",
    "make_norm",
    "make_shortcut",
    "relu",
    "register_block",
    "ModelConfig",
    "list_weights",
    "PretrainedWeights",
    "Publisher",
    "RemoteFile",
    "push_model",
    "check_weights",
    "WeightCheck",
    "Finding",
    "Wiring",
    "PreprocessingScore",
    "Normalisation",
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
    "Execution",
    "ProcessGroup",
    "StopSignal",
    "Checkpoint",
    "recipe",
    "Recipe",
    "RunConfig",
    "ArchitectureConfig",
    "register_optimizer",
    "register_schedule",
    "register_recipe",
    "ScheduleInput",
    "find_lr",
    "LrSweep",
    "LrCurve",
    "study",
    "Study",
    "ArmComparison",
    "Setting",
    "TableRow",
    "SeedStats",
    "Verdict",
    "Ranking",
    "Place",
    "Run",
    "evaluate",
    "Evaluation",
    "ErrorRate",
    "ClassError",
    "Confusion",
    "ReliabilityBin",
    "Mistake",
    "CoveragePoint",
    "LabelErrors",
    "LabelError",
    "ChanceLevel",
    "SplitScore",
    "evaluate_multi_label",
    "MultiLabelEvaluation",
    "LabelMetrics",
    "lesion",
    "LesionResult",
    "BlockError",
    "RemovalError",
    "OrderError",
    "PathGradients",
    "landscape",
    "LandscapeResult",
    "Curvature",
    "load",
    "Predictor",
    "Prediction",
    "load_model",
    "save_model",
    "ModelCard",
    "TemperatureScaling",
    "MultiLabel",
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
