"""Fits on the validation split at the end of a run: a temperature, or a threshold for each label."""

from typing import TYPE_CHECKING

import torch

from resnetlab.evaluation.protocols import one_crop
from resnetlab.models.model_card import MultiLabel, TemperatureScaling

if TYPE_CHECKING:
    from resnetlab.training.trainer_setup import TrainerComponents


def fit_run_temperature(trainer: "TrainerComponents") -> TemperatureScaling | None:
    """Return the temperature if the configuration asks for one; if none can be fitted, warn and return `None`.

    Every process of the run must call this, since they share the images.

    Paper: Guo et al., "On Calibration of Modern Neural Networks", 2017, section 4.2.
    """
    if not trainer.config.fit_temperature:
        return None
    from resnetlab.evaluation.temperature import (  # loads SciPy, which a run needs at its end only
        TemperatureError,
        collect_log_probs,
        fit_temperature,
        merge_log_probs,
    )

    group, split = trainer.process_group, trainer.data.splits["val"]
    samples = torch.arange(len(split))[group.rank :: group.size]
    part = split if group.size == 1 else split.subset(samples)
    batches = one_crop(trainer.eval_model, part, trainer.data.preprocessing, workers=trainer.options.workers)
    log_probs = merge_log_probs(group.all_gather(collect_log_probs(batches, samples)))
    try:
        return fit_temperature(log_probs, split="val")
    except TemperatureError as error:
        trainer.warn(f"{error}; the model file has no temperature")
        return None


def fit_run_thresholds(trainer: "TrainerComponents") -> MultiLabel | None:
    """Return the threshold of each label with the highest F1; `None` if an image has one class.

    Every process of the run must call this, since they share the images.
    """
    data = trainer.data
    if not data.dataset.train.is_multi_label:
        return None
    from resnetlab.evaluation.label_metrics import fit_thresholds  # loads SciPy, which a run needs at its end only
    from resnetlab.evaluation.multi_label import predict_labels

    predictions = predict_labels(
        trainer.eval_model,
        data.splits["val"],
        data.preprocessing,
        workers=trainer.options.workers,
        process_group=trainer.process_group,
    )
    return fit_thresholds(predictions, split="val")
