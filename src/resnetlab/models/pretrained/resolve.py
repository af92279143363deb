"""From a name of published weights, or an address on the Hugging Face hub, to a model file on this machine."""

from pathlib import Path

from resnetlab.extension import did_you_mean
from resnetlab.models.pretrained.catalogue import CATALOGUE, PretrainedWeights

FILE_SUFFIXES = (".safetensors", ".pth", ".pt", ".th", ".tar", ".ckpt", ".bin", ".onnx", ".xml", ".pt2")
"""Suffixes of files; a word that ends so is no name of weights."""


def list_weights() -> tuple[PretrainedWeights, ...]:
    """Return the published weights that can be used by name, sorted by publisher and depth."""
    return tuple(CATALOGUE.values())


def find_pretrained(name: str) -> Path | None:
    """Return the model file for a name of the catalogue or an address `hf://owner/name`; `None` for any other text.

    The weights are downloaded and converted unless that was done before.

    Raises:
        DownloadError: if they are not on this machine and cannot be downloaded.
        ModelFileError: if the file holds no network that can be imported.
        ConfigError: if a package is missing.
    """
    from resnetlab.models.pretrained.hub import fetch_from_hub, parse_hub_address

    if name in CATALOGUE:
        from resnetlab.models.pretrained.fetch import model_file

        return model_file(CATALOGUE[name])
    address = parse_hub_address(name)
    return None if address is None else fetch_from_hub(address)


def output_base(given: Path, file: Path) -> Path:
    """Return the path beside which results of a model belong by default: they are named after it.

    Args:
        given: What the user named: a path, a name of the catalogue, or an address on the hub.
        file: Its model file. That of published weights lies in the cache, so their results go to the current folder.
    """
    return file if given.exists() else Path(f"{given.name.replace('@', '-')}.safetensors")


def suggest_weights(text: str) -> str:
    """Return a hint at published weights whose name resembles a text, beginning with a comma; empty if none does."""
    if "/" in text or text.lower().endswith(FILE_SUFFIXES):
        return ""
    network = text.partition(".")[0].lower()
    names = [name for name in CATALOGUE if name.partition(".")[0] == network]
    hint = did_you_mean(text, CATALOGUE) if "." in text else ""
    if not hint and not names:
        return ""
    known = hint or f"; those of {network} are {', '.join(names)}"
    return f", and no published weights have this name{known} (resnetlab weights lists all)"
