"""Upload a model file with a generated page to the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.models.model_card import MODEL_FILE, ModelCard, find_model_file
from resnetlab.models.pretrained.hub import HubAddress, huggingface_hub, parse_hub_address

MAX_CLASSES = 100
"""Class names that the page lists; it counts the others."""


class UploadError(RuntimeError):
    """The hub refuses an upload or cannot be reached; the message has the reason."""


def push_model(
    model: Path | str,
    target: str,
    *,
    private: bool = False,
    licence: str | None = None,
    message: str | None = None,
) -> str:
    """Upload a model file as `model.safetensors` with a generated README.md; return the address of its page.

    The repository is created if it does not exist. `huggingface_hub` finds the account that `hf auth login` stored.

    Args:
        model: A model file or run directory.
        target: `hf://owner/name`, or with `@branch`.
        private: Whether a new repository is private.
        licence: Licence of the model, such as `apache-2.0`, for its page.
        message: Description of the upload in the repository's history.

    Raises:
        ModelFileError: if the model file is missing or damaged.
        ConfigError: if the target has another form, or the package is not installed.
        UploadError: if the hub refuses or cannot be reached.
    """
    from resnetlab.models.model_file import load_model

    address = parse_hub_address(target)
    if address is None:
        raise ConfigError(f"{target}: not an address on the Hugging Face hub; it has the form hf://owner/name")
    hub = huggingface_hub()
    path = find_model_file(model)
    network, card = load_model(path)  # verifies its checksums
    page = hub_page(card, address, sum(parameter.numel() for parameter in network.parameters()), licence=licence)
    files = {MODEL_FILE: str(path), "README.md": page.encode()}
    try:
        url = str(hub.HfApi().create_repo(address.repository, private=private or None, exist_ok=True))
        hub.HfApi().create_commit(
            address.repository,
            [hub.CommitOperationAdd(name, content) for name, content in files.items()],
            commit_message=message or f"Upload {card.model.name} with resnetlab",
            revision=address.revision,
        )
    except hub.errors.LocalTokenNotFoundError as error:
        raise UploadError(f"{address}: no account on this machine; log in with: hf auth login") from error
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError, ValueError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        remedy = "; log in with: hf auth login, with a token that may write" if status in (401, 403) else ""
        raise UploadError(f"{address}: the upload failed ({_first_line(error)}){remedy}") from error
    return url


def hub_page(card: ModelCard, address: HubAddress, params: int, *, licence: str | None = None) -> str:
    """Return the README.md of a repository: metadata for the hub, then what the model card says.

    Args:
        card: The model card.
        address: The repository, for the commands on the page.
        params: Number of parameters of the network.
        licence: Licence of the model, if it is stated.
    """
    preprocessing = card.preprocessing
    height, width = preprocessing.input_size
    return "\n".join(
        [
            *_front_matter(licence),
            f"# {address.repository.rpartition('/')[2]}",
            "",
            f"{_escape(card.model.name)}: a {card.model.arm} network of {card.model.depth} layers with {params:,} "
            f"parameters, for {len(card.classes):,} classes.",
            "",
            *_origin(card),
            "```bash",
            f"resnetlab predict {address} image.jpg",
            f"resnetlab train --from {address} --data photos",
            "```",
            "",
            "## Errors",
            "",
            *_errors(card),
            "",
            "## Preprocessing",
            "",
            f"- input: {height} x {width} pixels, {card.model.in_channels} channels",
            f"- fit {preprocessing.fit}, {preprocessing.crop_ratio:.3g} of the resized image; "
            f"{preprocessing.interpolation} with antialiasing, rounding of {preprocessing.resize_rule}",
            f"- mean {_numbers(preprocessing.mean)}, deviation {_numbers(preprocessing.std)}, for pixels from 0 to 1",
            "",
            "## Classes",
            "",
            _classes(card),
            "",
        ]
    )


def _front_matter(licence: str | None) -> list[str]:
    """Return the metadata that the hub reads. JSON values are YAML too."""
    metadata: dict[str, Any] = {
        "library_name": "resnetlab",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "resnet", "resnetlab"],
        **({} if licence is None else {"license": licence}),
    }
    return ["---", *(f"{name}: {json.dumps(value)}" for name, value in metadata.items()), "---", ""]


def _origin(card: ModelCard) -> list[str]:
    origin = card.provenance.get("converted_from", {})
    if not origin.get("url"):
        return []
    return [f"Converted from {origin['url']} (licence {origin.get('licence', 'not stated')}).", ""]


def _errors(card: ModelCard) -> list[str]:
    errors = [
        f"- {name.removesuffix('_error_pct')} error: {value:.2f} %"
        for name, value in card.error.items()
        if isinstance(value, int | float) and name.endswith("_error_pct")
    ]
    return errors or ["None were measured by resnetlab."]


def _classes(card: ModelCard) -> str:
    more = f" and {len(card.classes) - MAX_CLASSES:,} more" if len(card.classes) > MAX_CLASSES else ""
    return ", ".join(map(_escape, card.classes[:MAX_CLASSES])) + more


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _escape(text: str) -> str:
    """Return a name as plain Markdown on one line."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|#" else letter for letter in " ".join(text.split()))


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split()) or type(error).__name__
