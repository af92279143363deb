"""Summary of an evaluation: networks, data, protocol, and what a reader must know about the metrics."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnetlab.evaluation.metrics import Evaluation
from resnetlab.models.model_card import ModelCard, TemperatureScaling

if TYPE_CHECKING:  # the HTML report needs no PyTorch
    from resnetlab.evaluation.evaluator import EnsembleMember
    from resnetlab.evaluation.options import EvaluationOptions


MANY_ERRORS_PCT = 20.0
"""Top-1 error from which most of the images that look wrongly labelled may be mistakes of the network."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSummary:
    """The networks, the data and the protocol of an evaluation, in words."""

    title: str
    models: tuple[str, ...]
    """Names of the networks; several form an ensemble."""
    files: tuple[str, ...]
    """Their model files, in the same order."""
    data: str
    split: str
    protocol: str
    """The protocol in words, such as `one crop of 224 pixels`."""
    command: str
    """Command that reproduces the page."""
    computed_by: tuple[str, ...] = ()
    """Runtime and precision of each network, such as `torch fp32`."""
    temperatures: tuple[float, ...] = ()
    """Number that divides the logits of each network before the softmax; 1 if none was fitted."""
    notes: tuple[str, ...] = ()
    """Warnings, one sentence each; the page shows them below the metrics."""
    num_left_out: int = 0
    """Number of images that cannot be decoded."""
    left_out: tuple[str, ...] = ()
    """Some or all of these images, each as `NAME: REASON`."""
    provenance: tuple[tuple[str, str], ...] = ()
    """Terms and descriptions of the networks' origin: recipe, seed, versions."""
    mistake_names: tuple[str, ...] = ()
    """File or row of each of `Evaluation.mistakes`, in order; empty if the data have no such names."""
    label_error_names: tuple[str, ...] = ()
    """The same for the examples of `Evaluation.label_errors`."""


def summarise(
    members: "Sequence[EnsembleMember]", options: "EvaluationOptions", evaluation: Evaluation, *, command: str
) -> EvaluationSummary:
    """Return the summary of an evaluation; `command` reproduces it."""
    dataset = members[0].dataset
    names = tuple(member.card.model.name for member in members)
    sample_names = dataset.split.names
    examples = evaluation.label_errors.examples if evaluation.label_errors else ()
    return EvaluationSummary(
        title=f"{' + '.join(dict.fromkeys(names))} on {dataset.title}",
        models=names,
        files=tuple(str(member.file) for member in members),
        data=dataset.title,
        split=dataset.split_name,
        protocol=describe_protocol(members, options),
        computed_by=tuple(member.computed_by for member in members),
        temperatures=tuple(member.card.temperature for member in members),
        command=command,
        notes=evaluation_notes(members, evaluation),
        num_left_out=len(dataset.skipped) + len(dataset.split) - evaluation.num_samples,
        left_out=dataset.skipped,
        provenance=tuple(line for member in members for line in describe_origin(member)),
        mistake_names=tuple(sample_names[mistake.position] for mistake in evaluation.mistakes) if sample_names else (),
        label_error_names=tuple(sample_names[example.position] for example in examples) if sample_names else (),
    )


def describe_protocol(members: "Sequence[EnsembleMember]", options: "EvaluationOptions") -> str:
    """Return the crops and sizes of the protocol in words."""
    size, sides = members[0].card.preprocessing.size_text, ", ".join(map(str, members[0].sides(options)))
    crops = {
        "ten-crop": f"ten crops of {size} pixels from a shorter side of {sides}",
        "multi-scale": f"whole images at shorter sides of {sides} pixels",
    }.get(options.protocol, f"one crop of {size} pixels")
    return crops if len(members) == 1 else f"the mean of {len(members)} networks, each {crops}"


def evaluation_notes(members: "Sequence[EnsembleMember]", evaluation: Evaluation) -> tuple[str, ...]:
    """Return warnings about the data, the network and the metrics."""
    first, notes = members[0], list(members[0].dataset.warnings)
    notes += [
        f"{member.file.name}: {member.contradiction}; resnetlab inspect WEIGHTS --data IMAGES tries every assumption"
        for member in members
        if member.contradiction is not None
    ]
    if any(member.dataset.seen_in_training for member in members):
        notes.append("the network was trained on some of these images: the error on new images is probably higher")
    notes += recalibration_notes(members)
    scalings = [member.card.temperature_scaling for member in members]
    if any(scaling and scaling.split == first.dataset.split_name for scaling in scalings):
        notes.append("the temperature was fitted on this split: on new images calibration is probably worse")
    notes += selection_notes(members)
    if evaluation.label_errors and evaluation.label_errors.count and evaluation.top1.pct > MANY_ERRORS_PCT:
        notes.append(
            f"the network errs on {evaluation.top1.pct:.0f} % of these images: many likely label errors are its own "
            "mistakes"
        )
    unknown = [member.file.name for member in members if not is_training_data_known(member.card)]
    if (
        unknown
        and first.dataset.split_name in ("train", "val")
        and not any(m.dataset.seen_in_training for m in members)
    ):
        notes.append(
            f"it is not known on which images {' and '.join(unknown)} was trained; if these were among them, the error "
            "on new images is higher, and neither a temperature nor label errors follow from them"
        )
    if evaluation.rejection and not any(scalings):
        notes.append(
            "no temperature was fitted, so confidence may be far from accuracy; fit one with --fit-temperature"
        )
    empty = [row.name for row in evaluation.per_class if row.error is None]
    if empty:
        notes.append(f"{len(empty)} of the network's {len(evaluation.per_class)} classes have no images")
    if evaluation.num_without_confidence:
        notes.append(
            f"the network's output is not finite for {evaluation.num_without_confidence:,} images: all count as wrong"
        )
    return tuple(notes)


def recalibration_notes(members: "Sequence[EnsembleMember]") -> list[str]:
    """Return on which images the statistics of batch normalisation were recomputed, if they were."""
    notes = []
    for member in members:
        if member.num_recalibration_images:
            count = f"{member.num_recalibration_images:,} training images"
            known = is_training_data_known(member.card)
            origin = "" if known else f" of {member.dataset.title}, not those that {member.file.name} was trained on"
            notes.append(f"the batch-normalisation statistics were recomputed on {count}{origin}")
    return list(dict.fromkeys(notes))


def selection_notes(members: "Sequence[EnsembleMember]") -> list[str]:
    """Return by what the trainings used the evaluated images, if these are the validation split."""
    return list(dict.fromkeys(note for member in members for note in _selections(member)))


def _selections(member: "EnsembleMember") -> list[str]:
    provenance = member.card.provenance
    recipe = provenance.get("config", {}).get("recipe", {})
    if member.dataset.split_name != "val" or provenance.get("data", {}).get("name") != member.dataset.title:
        return []
    uses = {
        "the epoch that was kept was selected on this split": recipe.get("keep") == "best",
        "the end of the training was selected on this split": recipe.get("early_stop_epochs") is not None,
        "the learning rate was lowered by the error on this split": recipe.get("schedule") == "plateau",
    }
    return [f"{use}: the error on new images is probably higher" for use, applies in uses.items() if applies]


def describe_origin(member: "EnsembleMember") -> list[tuple[str, str]]:
    """Return terms and descriptions of a network's origin: its training run or its source, and versions."""
    provenance = member.card.provenance
    config, data, versions = (provenance.get(name, {}) for name in ("config", "data", "versions"))
    name, lines = member.card.model.name, []
    if config:
        recipe = config.get("recipe", {})
        length = f"{recipe['steps']:,} steps" if recipe.get("steps") else f"{recipe.get('epochs')} epochs"
        training = f"{data.get('name')}, recipe {recipe.get('name')}, {length}, seed {config.get('seed')}"
        lines.append((f"{name} trained on", training))
    elif provenance:
        source = provenance.get("source", provenance.get("file", "another project"))
        lines.append((f"{name} from", str(source)))
    if scaling := member.card.temperature_scaling:
        lines.append(("temperature", describe_temperature(scaling)))
    if versions:
        lines.append(("with", ", ".join(f"{package} {version}" for package, version in versions.items())))
    return lines


def is_training_data_known(card: ModelCard) -> bool:
    """Return whether a card has the fingerprint of the training data, as those of `train` have."""
    return bool(card.provenance.get("data", {}).get("fingerprint"))


def describe_temperature(scaling: TemperatureScaling) -> str:
    """Return a temperature in words: its value, the images, and its effect on them."""
    return (
        f"{scaling.temperature:.3f}, fitted on {scaling.num_images:,} images of the {scaling.split} split: calibration "
        f"error {scaling.ece_before_pct:.2f} to {scaling.ece_after_pct:.2f} %, loss {scaling.loss_before:.4f} to "
        f"{scaling.loss_after:.4f} nats"
    )
