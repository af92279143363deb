"""`resnetlab inspect --data`: the assumptions about a network, tried on images."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError, DataConfig, ModelConfig, Preprocessing

if TYPE_CHECKING:
    from resnetlab.cli.inspect_options import Options
    from resnetlab.evaluation.self_check.check_weights import WeightCheck
    from resnetlab.models.importing.assumptions import AssumptionOverrides

NUMBERS = {"shortcuts": {"pad": "option A", "none": "none (a plain network)"}}
"""Words for the values of some properties."""


@dataclass(frozen=True)
class CheckedFile:
    """A file whose assumptions were tried on images."""

    check: "WeightCheck"
    overrides: "AssumptionOverrides"
    """The user's values, and the decided ones where the user gave none."""
    warnings: tuple[str, ...]
    """Values of the user that the statistics contradict."""


def apply_check(
    path: Path, options: "Options", given: "AssumptionOverrides"
) -> tuple["Options", "AssumptionOverrides", dict[str, Any]]:
    """Try the assumptions; return the options and overrides with what is clear, and the check as JSON values.

    Raises:
        ConfigError: as `check_file`; with `--save`, also if the statistics show a network that no model file holds.
    """
    checked = check_file(path, options, given)
    description = describe_check(checked.check, checked.warnings)
    if options.save is not None:
        refuse_unstorable(path, checked.check)
        options, description["stored"] = _fill_in(options, checked.check.decided)
    return options, checked.overrides, {"check": description}


def _fill_in(options: "Options", decided: Mapping[str, Any]) -> tuple["Options", list[str]]:
    """Return the options with the decided preprocessing where the user gave none, and its values in words.

    A mean for each pixel has a size of its own.
    """
    found, size = decided.get("normalisation"), decided.get("image_size")
    stored = []
    card = options.card
    if found is not None and (card.mean, card.std, card.pixel_mean) == (None, None, None):
        card = replace(card, mean=found.mean, std=found.std)
        stored.append(f"mean and deviation ({found.name})")
    if size is not None and (card.image_size, card.pixel_mean) == (None, None):
        card = replace(card, image_size=(size,))
        stored.append(f"image size {size}")
    return replace(options, card=card), stored


def check_file(path: Path, options: "Options", given: "AssumptionOverrides") -> CheckedFile:
    """Try the assumptions about a file of published weights on the images of `--data`.

    Raises:
        ConfigError: if there are too few images, the network has no batch normalisation, or an image cannot be read,
            unless `--on-bad-image` is `skip`.
    """
    from resnetlab.cli.inspect_conversion import make_preprocessing
    from resnetlab.evaluation.self_check.check_weights import NUM_IMAGES, check_network, default_size
    from resnetlab.evaluation.self_check.sample_images import load_sample
    from resnetlab.models.importing.import_weights import import_file_order

    assert options.data is not None
    model = import_file_order(path, tensors=options.tensors).model
    preprocessing = None
    if options.card.mean is not None and options.card.std is not None:
        preprocessing, _ = make_preprocessing(options.card, model.config)
    size = options.card.image_size[0] if options.card.image_size else default_size(model.config)
    images = load_sample(data_config(options), NUM_IMAGES, model.config.in_channels)
    check = check_network(model.config, model.state_dict(), images, image_size=size, given=preprocessing)
    overrides, warnings = _merge(model.config, check.decided, given)
    found = check.decided.get("normalisation")
    if preprocessing is not None and found is not None and not _agree(found, preprocessing):
        warnings.append(f"--mean and --std differ from what the statistics show: {found.name}")
    shown = check.decided.get("image_size", size)
    if options.card.image_size is not None and shown != size:
        warnings.append(f"--image-size {' '.join(map(str, options.card.image_size))}, and the statistics show {shown}")
    return CheckedFile(check, overrides, tuple(warnings))


def data_config(options: "Options") -> DataConfig:
    """Return the images of `--data`."""
    assert options.data is not None
    return DataConfig(options.data, **options.reading.changes())


def refuse_unstorable(path: Path, check: "WeightCheck") -> None:
    """Refuse a conversion if the statistics show a network that no model file holds.

    Raises:
        ConfigError: naming the property.
    """
    decided = check.decided
    if decided.get("stem_pool") == "average":
        raise ConfigError(f"{path}: its statistics show an average pool in the stem, and a ResNet here has a max pool")
    if decided.get("subsampling") == "average" and check.wiring.shortcut == "pad":
        raise ConfigError(
            f"{path}: its statistics show that option A averages 2x2 positions, and here it takes every second one"
        )


def describe_check(check: "WeightCheck", warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a check as JSON values."""
    return {
        "num_images": check.num_images,
        "view": check.preprocessing.view,
        "image_size": check.image_size,
        "findings": [
            {"property": item.subject, "decided": item.decided, "scores": dict(item.scores)} for item in check.findings
        ],
        "warnings": list(warnings),
    }


def check_lines(check: Mapping[str, Any]) -> Iterator[str]:
    """Yield one line for each property: the value that is clear, or that the statistics cannot tell."""
    yield (
        f"{check['num_images']} images ({check['view']}), if they are of the kind that the network was trained on; "
        "distances from 0 (agreement) to 1"
    )
    for item in check["findings"]:
        words = NUMBERS.get(item["property"], {})
        ranked = sorted(item["scores"].items(), key=lambda pair: pair[1])[:2]
        shown = ", ".join(f"{words.get(name, name)} {score:.4f}" for name, score in ranked)
        verdict = "cannot tell" if item["decided"] is None else words.get(item["decided"], item["decided"])
        yield f"{item['property']}: {verdict} ({shown})"
    if check.get("stored"):
        yield f"stored in the model file: {', '.join(check['stored'])}"
    yield from (f"contradiction: {line}" for line in check["warnings"])


def _merge(
    config: ModelConfig, decided: Mapping[str, Any], given: "AssumptionOverrides"
) -> tuple["AssumptionOverrides", list[str]]:
    """Return the overrides with the decided values where the user gave none, and a warning for each contradiction."""
    values: dict[str, Any] = {name: decided[name] for name in ("bottleneck_stride", "bn_epsilon") if name in decided}
    if config.shortcut in ("pad", "none"):
        values |= {name: decided[name] for name in ("shortcut", "zero_channels") if name in decided}
    elif "subsampling" in decided:
        values["average_shortcut"] = decided["subsampling"] == "average"
    if "channel_order" in decided:
        values["channel_order"] = str(decided["channel_order"]).lower()
    if given.shortcut == "none" or (given.shortcut is None and values.get("shortcut") == "none"):
        values.pop("zero_channels", None)
    warnings = [
        f"--{name.replace('_', '-')} {own}, and the statistics show {value}"
        for name, value in values.items()
        if (own := getattr(given, name)) is not None and own != value
    ]
    new = {name: value for name, value in values.items() if getattr(given, name) is None}
    return replace(given, **new, from_statistics=frozenset(new)), warnings


def _agree(found: Any, preprocessing: Preprocessing) -> bool:
    from resnetlab.evaluation.self_check.preprocessing_candidates import Normalisation

    return found.is_same(Normalisation("as given", preprocessing.mean, preprocessing.std))
