"""What an evaluation says beside its numbers: what was judged, on what, how, and what a reader must know."""

from collections.abc import Sequence

from resnetlab.evaluation.evaluator import EnsembleMember, EvaluationOptions
from resnetlab.evaluation.html_report import EvaluationSummary
from resnetlab.evaluation.metrics import Evaluation


def summarise(
    members: Sequence[EnsembleMember], terms: EvaluationOptions, evaluation: Evaluation, command: str
) -> EvaluationSummary:
    """Return what was judged, on what, and how, in words."""
    first = members[0].judged
    names = tuple(member.card.model.name for member in members)
    num_left_out = len(first.skipped) + len(first.split) - evaluation.num_samples
    return EvaluationSummary(
        title=f"{' + '.join(dict.fromkeys(names))} on {first.title}",
        models=names,
        files=tuple(str(member.file) for member in members),
        data=first.title,
        split=first.name,
        protocol=describe_protocol(members, terms),
        computed_by=tuple(member.computed_by for member in members),
        command=command,
        notes=evaluation_notes(members, evaluation),
        num_left_out=num_left_out,
        left_out=first.skipped,
        provenance=tuple(line for member in members for line in describe_origin(member)),
        mistake_names=tuple(first.split.names[one.position] for one in evaluation.mistakes)
        if first.split.names
        else (),
    )


def describe_protocol(members: Sequence[EnsembleMember], terms: EvaluationOptions) -> str:
    """Return how often, and at which sizes, an image was looked at."""
    size, sides = members[0].card.preprocessing.image_size, ", ".join(map(str, members[0].sides(terms)))
    looks = {
        "ten-crop": f"ten crops of {size} pixels from a shorter side of {sides}",
        "multi-scale": f"whole images at shorter sides of {sides} pixels",
    }.get(terms.protocol, f"one crop of {size} pixels")
    return looks if len(members) == 1 else f"the mean of {len(members)} networks, each {looks}"


def evaluation_notes(members: Sequence[EnsembleMember], evaluation: Evaluation) -> tuple[str, ...]:
    """Return what a reader must know to take the numbers for what they are."""
    first, notes = members[0], list(members[0].judged.warnings)
    if any(member.judged.seen_in_training for member in members):
        notes.append("some of these very images were trained on: the error says little about new ones")
    if first.recalibrated_on:
        notes.append(
            f"batch normalisation's statistics were estimated anew on {first.recalibrated_on:,} training images"
        )
    empty = [one.name for one in evaluation.per_class if one.error is None]
    if empty:
        notes.append(f"no image of {len(empty)} of the {len(evaluation.per_class)} classes the network knows")
    if evaluation.num_without_confidence:
        notes.append(f"the network gave no finite number for {evaluation.num_without_confidence:,} images: wrong, all")
    return tuple(notes)


def describe_origin(member: EnsembleMember) -> list[tuple[str, str]]:
    """Return where a network comes from: a term and its words each."""
    known = member.card.provenance
    config, data, versions = (known.get(name, {}) for name in ("config", "data", "versions"))
    lines = []
    if config:
        recipe = config.get("recipe", {})
        length = f"{recipe['steps']:,} steps" if recipe.get("steps") else f"{recipe.get('epochs')} epochs"
        lines.append(
            (
                f"{member.card.model.name} trained on",
                f"{data.get('name')}, recipe {recipe.get('name')}, {length}, seed {config.get('seed')}",
            )
        )
    elif known:
        lines.append((f"{member.card.model.name} from", str(known.get("source", known.get("file", "another project")))))
    if versions:
        lines.append(("with", ", ".join(f"{name} {value}" for name, value in versions.items())))
    return lines
