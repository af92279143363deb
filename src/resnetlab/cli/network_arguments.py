"""Networks, data and output folder of the commands that take networks apart: `lesion` and `landscape`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from resnetlab.cli.output_paths import check_output_folder
from resnetlab.config import ConfigError, DataConfig


def network_arguments(options: Any, command: str) -> tuple[list[Path], DataConfig | None, Path]:
    """Return the model files, the data (`None` for each network's own), and the folder of the results.

    Args:
        options: The options of the command: models, data, how they are read, and out.
        command: Its name; without --out the folder is NAME-COMMAND beside the first model.

    Raises:
        ConfigError: for a missing model, unknown data, or an output folder that is a file.
    """
    from resnetlab.data.registry import detect_kind
    from resnetlab.models.model_card import find_model_file
    from resnetlab.models.pretrained.resolve import output_base

    if not options.models:
        raise ConfigError(f"name at least one model file or run directory: resnetlab {command} plain residual")
    files = [find_model_file(model) for model in options.models]
    base = output_base(options.models[0], files[0])
    out = options.out or base.with_name(f"{base.stem}-{command}")
    check_output_folder("--out", out)
    if options.data is None:
        return files, None, out
    data = DataConfig(options.data, **options.reading.changes())
    detect_kind(data)
    return files, data, out


def network_labels(names: Sequence[str]) -> list[str]:
    """Return a label for each network: its name, followed by a number where another network has the same name."""
    return [
        name if names.count(name) == 1 else f"{name} ({names[:index].count(name) + 1})"
        for index, name in enumerate(names)
    ]
