"""The protocol of a finished run, in the words of the published ones."""

import dataclasses
import json

from resnetlab.config import Recipe
from resnetlab.data.registry import CIFAR10
from resnetlab.literature.protocol import BEST_ON_VAL, LAST_EPOCH, Protocol
from resnetlab.study.results import Run

COVERED_FIELDS = frozenset(
    {
        "name",
        "epochs",
        "steps",
        "batch_size",
        "lr",
        "scale_lr",
        "momentum",
        "weight_decay",
        "schedule",
        "milestones",
        "patience",
        "warmup_steps",
        "warmup_epochs",
        "initial_lr",
        "initial_lr_until_pct",
        "crop",
        "crop_padding",
        "scale_range",
        "flip",
        "jitter",
        "lighting",
        "normalise",
        "keep",
    }
)
"""Fields of `Recipe` that the other fields of a protocol describe; any other one that is set is an extra."""


def protocol_of(run: Run) -> Protocol | None:
    """Return the protocol of a finished run; `None` for other data than CIFAR-10, or if the record lacks a field.

    CIFAR-10 is identified by its classes and numbers of images, so folder name and container format do not matter. A
    subset of the training images counts as CIFAR-10 too; its size is then a deviation.
    """
    recipe = run.config.recipe
    try:
        data = run.start["data"]
        splits = {f"num_{split}": data[f"num_{split}"] for split in ("train", "val", "test")}
        if set(data["classes"]) != set(CIFAR10) or splits["num_test"] != 10_000:
            return None
        if splits["num_train"] + splits["num_val"] > 50_000:
            return None
        return Protocol(
            f"recipe {recipe.name}",
            "CIFAR-10",
            **splits,
            image_size=data["preprocessing"]["image_size"],
            steps=run.result["steps"],
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            schedule=_schedule_text(recipe),
            warmup=_warmup_text(recipe),
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            augmentation=_augmentation_names(recipe),
            normalise="mean per pixel" if recipe.normalise == "pixel" else "mean and deviation per channel",
            tested_epoch=LAST_EPOCH if recipe.keep == "last" else BEST_ON_VAL,
            views="single view",
            precision=_precision_name(run),
            extras=_extras(run),
        )
    except KeyError:
        return None


def _precision_name(run: Run) -> str:
    """Return the precision of a run's products; records of runs on a GPU once called TF32 fp32 as well."""
    precision, machine = run.start["execution"]["precision"], run.start.get("machine", {})
    unknown = precision == "fp32" and machine.get("device") == "cuda" and not machine.get("fp32_is_not_tf32")
    return "fp32 or TF32" if unknown else {"tf32": "TF32"}.get(precision, precision)


def _extras(run: Run) -> tuple[str, ...]:
    """Return what a run does beyond the other fields of a protocol, as a user would set it, and what changed in it.

    The other fields are those of the end of the run: a resumed run may have had others before.
    """
    recipe, defaults = run.config.recipe, Recipe()
    names = [field.name for field in dataclasses.fields(Recipe) if field.name not in COVERED_FIELDS]
    changed = [name for name in names if getattr(recipe, name) != getattr(defaults, name)]
    extras = [f"{name}={json.dumps(getattr(recipe, name))}" for name in changed]
    together = run.start.get("images_normalised_together", recipe.batch_size)
    extras += [f"a change during the run: it was {change}" for change in run.changes]
    extras += ["steps that were skipped, because their loss was not finite"] if run.num_skipped else []
    return (*extras, *([] if together == recipe.batch_size else [f"BN over {together} images"]))


def _schedule_text(recipe: Recipe) -> str:
    if recipe.schedule == "step" and recipe.milestones:
        return f"divided by 10 at {' and '.join(f'{100 * milestone:g} %' for milestone in recipe.milestones)}"
    return {
        "constant": "constant",
        "step": "constant",
        "plateau": f"divided by 10 after {recipe.patience} epochs without a lower validation error",
        "linear": "falling to 0 along a line",
        "cosine": "falling to 0 along a cosine",
    }.get(recipe.schedule, f"by the schedule {recipe.schedule}")


def _warmup_text(recipe: Recipe) -> str:
    phases = []
    if recipe.warmup_steps:
        phases.append(f"lr rising over {recipe.warmup_steps} steps")
    elif recipe.warmup_epochs:  # config.json has the recipe as it was given, before epochs become steps
        phases.append(f"lr rising over {recipe.warmup_epochs:g} epochs")
    if recipe.initial_lr is not None:
        phases.append(f"lr {recipe.initial_lr:g} until the training error is below {recipe.initial_lr_until_pct:g} %")
    return " and ".join(phases) or "no warm-up"


def _augmentation_names(recipe: Recipe) -> tuple[str, ...]:
    crops = {
        "pad": f"crops from {recipe.crop_padding} pixels of padding" if recipe.crop_padding else "",
        "scale": f"crops after scaling by {recipe.scale_range[0]} … {recipe.scale_range[1]} over 224",
        "resized": "crops of random scale and aspect ratio",
    }
    names = (
        crops[recipe.crop],
        "flips" if recipe.flip else "",
        f"colour jitter of {recipe.jitter:g}" if recipe.jitter else "",
        f"PCA lighting of {recipe.lighting:g}" if recipe.lighting else "",
    )
    return tuple(filter(None, names))
