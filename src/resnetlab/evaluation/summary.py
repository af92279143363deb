"""What an evaluation says beside its numbers: what was judged, on what, how, and what a reader must know."""

from collections.abc import Sequence

from resnetlab.evaluation.evaluator import Member, Terms
from resnetlab.evaluation.html_report import Facts
from resnetlab.evaluation.metrics import Evaluation


def facts_of(members: Sequence[Member], terms: Terms, evaluation: Evaluation, command: str) -> Facts:
    """Return what was judged, on what, and how, in words."""
    first = members[0].judged
    names = tuple(member.card.model.name for member in members)
    num_left_out = len(first.skipped) + len(first.split) - evaluation.num_samples
    return Facts(
        title=f"{' + '.join(dict.fromkeys(names))} on {first.title}",
        models=names,
        files=tuple(str(member.file) for member in members),
        data=first.title,
        split=first.name,
        protocol=protocol_in_words(members, terms),
        computed_by=tuple(member.computed_by for member in members),
        command=command,
        notes=notes_on(members, evaluation),
        num_left_out=num_left_out,
        left_out=first.skipped,
        provenance=tuple(line for member in members for line in origin_of(member)),
        mistake_names=tuple(first.split.names[one.position] for one in evaluation.mistakes)
        if first.split.names
        else (),
    )


def protocol_in_words(members: Sequence[Member], terms: Terms) -> str:
    """Return how often, and at which sizes, an image was looked at."""
    size, sides = members[0].card.preprocessing.image_size, ", ".join(map(str, members[0].sides(terms)))
    looks = {
        "ten-crop": f"ten crops of {size} pixels from a shorter side of {sides}",
        "multi-scale": f"whole images at shorter sides of {sides} pixels",
    }.get(terms.protocol, f"one crop of {size} pixels")
    return looks if len(members) == 1 else f"the mean of {len(members)} networks, each {looks}"


def notes_on(members: Sequence[Member], evaluation: Evaluation) -> tuple[str, ...]:
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


def origin_of(member: Member) -> list[tuple[str, str]]:
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
