"""Models on the Hugging Face hub: `hf://owner/name` as a model file, and the upload of one's own (extra `hub`)."""

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from resnetlab.config import ConfigError
from resnetlab.models.model_card import MODEL_FILE, has_card
from resnetlab.models.pretrained.convert import convert
from resnetlab.models.pretrained.hub_configs import read_timm_config, read_transformers_config
from resnetlab.system.download import DownloadError

WEIGHTS_FILES = (MODEL_FILE, "pytorch_model.bin")
"""Names of weights in a repository, the preferred first."""
_ADDRESS = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")  # a path on the command line loses a slash


@dataclass(frozen=True)
class HubAddress:
    """A repository on the Hugging Face hub."""

    repository: str
    """`owner/name`."""
    revision: str | None = None
    """Branch, tag or commit; the main branch if `None`."""

    def __str__(self) -> str:
        return f"hf://{self.repository}{f'@{self.revision}' if self.revision else ''}"


def parse_hub_address(text: str) -> HubAddress | None:
    """Return the repository of `hf://owner/name` or `hf://owner/name@revision`; `None` for any other text.

    Raises:
        ConfigError: for a text that begins so and has another form.
    """
    if not text.startswith("hf:/"):
        return None
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text}: not an address on the Hugging Face hub; it has the form hf://owner/name")
    return HubAddress(match[1], match[2])


def huggingface_hub() -> ModuleType:
    """Import the package of the hub.

    Raises:
        ConfigError: if it is not installed.
    """
    try:
        import huggingface_hub
    except ImportError as error:
        raise ConfigError(f"hf:// needs the package huggingface_hub ({error}); pip install 'resnetlab[hub]'") from error
    return huggingface_hub


@cache
def fetch_from_hub(address: HubAddress) -> Path:
    """Return the model file for a repository; weights of timm or transformers are converted, once.

    Downloads lie in the hub's own cache (HF_HOME), which other packages share. Without network its files are used.
    In a process, each repository is looked up once.

    Raises:
        DownloadError: if the repository or its weights cannot be found or downloaded.
        ModelFileError: if the weights cannot be imported.
        ConfigError: if the package is not installed, or the configuration of the weights cannot be read.
    """
    weights = next(filter(None, (_file(address, name) for name in WEIGHTS_FILES)), None)
    if weights is None:
        raise DownloadError(f"{address}: has neither {' nor '.join(WEIGHTS_FILES)}")
    if has_card(weights):
        return weights
    config = _json(address, "config.json")
    if config is None:
        raise ConfigError(
            f"{address}: has no config.json with classes and preprocessing; download {weights.name} and convert it: "
            "resnetlab inspect FILE --save NEW"
        )
    name = str(address).removeprefix("hf://").replace("/", "--").replace("@", "--")
    if "pretrained_cfg" in config or "architecture" in config:
        conversion = read_timm_config(config, name)
    else:
        preprocessor = _json(address, "preprocessor_config.json")
        if preprocessor is None:
            raise ConfigError(
                f"{address}: has no preprocessor_config.json with size, mean and deviation; download "
                f"{weights.name} and convert it: resnetlab inspect FILE --save NEW"
            )
        conversion = read_transformers_config(config, preprocessor, name)
    commit = weights.parent.name  # the folder of a snapshot is called after its commit
    return convert(weights, conversion, f"{address} {commit}")


def _json(address: HubAddress, name: str) -> dict[str, Any] | None:
    """Return the content of a JSON file of a repository; `None` if it does not have the file.

    Raises:
        ConfigError: if it is no JSON object.
    """
    path = _file(address, name)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{address}: its {name} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{address}: its {name} is no JSON object")
    return content


def _file(address: HubAddress, name: str) -> Path | None:
    """Return a file of a repository in the hub's cache, downloaded if necessary; `None` if there is no such file.

    Raises:
        DownloadError: if the hub refuses, or cannot be reached and its cache does not have the file.
    """
    hub = huggingface_hub()
    try:
        return Path(hub.hf_hub_download(address.repository, name, revision=address.revision))
    except hub.errors.LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{address}: {name} is not in the hub's cache on this machine, and the hub cannot be reached; download it "
            f"with a connection first (hf download {address.repository}) and copy the cache, HF_HOME"
        ) from error
    except hub.errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{address}: no such repository, or a private one; check the name, or log in with: hf auth login"
        ) from error
    except hub.errors.RevisionNotFoundError as error:
        raise DownloadError(f"{address}: the repository has no revision {address.revision!r}") from error
    except hub.errors.EntryNotFoundError:
        return None
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
        raise DownloadError(f"{address}: {name} cannot be downloaded ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split()) or type(error).__name__
