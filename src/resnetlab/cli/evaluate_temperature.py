"""`resnetlab evaluate --fit-temperature`: checks before, and the fitted number on standard error."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.serialization import check

if TYPE_CHECKING:
    from resnetlab.cli.evaluate_progress import ProgressBar
    from resnetlab.config import DataConfig
    from resnetlab.evaluation.options import EvaluationOptions
    from resnetlab.system.process_group import ProcessGroup


def check_fit(models: Sequence[Path], files: Sequence[Path], *, recalibrate_bn: bool) -> None:
    """Raise unless the temperature can be fitted and stored.

    Args:
        models: The networks as they were named.
        files: Their files.
        recalibrate_bn: Whether the statistics of batch normalisation are recomputed.

    Raises:
        ConfigError: for several networks, an export, published weights, or statistics that are not stored.
    """
    from resnetlab.inference.formats.exported_file import is_exported_file

    file, given = files[0], models[0]
    check(len(files) == 1, f"--fit-temperature is for one network, not {len(files)}; fit each of them alone")
    check(
        not is_exported_file(file),
        f"--fit-temperature needs a model file, and {file} is an export; fit it in the model file, then export",
    )
    check(
        given.exists(),
        f"--fit-temperature changes the model file, and {file} is that of everyone who uses {given}; copy it, and name "
        "the copy",
    )
    check(
        not recalibrate_bn,
        "--fit-temperature with --recalibrate-bn would store a temperature for statistics that are not stored; use one",
    )


def fit_and_log(
    file: Path,
    data: "DataConfig | None",
    options: "EvaluationOptions",
    *,
    process_group: "ProcessGroup",
    bar: "ProgressBar",
) -> None:
    """Fit the temperature, store it in the model file, and print it on standard error."""
    from resnetlab.evaluation.summary import describe_temperature
    from resnetlab.evaluation.temperature import fit_model_file

    scaling = fit_model_file(file, data, options, process_group=process_group, on_progress=bar.update)
    if process_group.is_first:
        bar.log(f"temperature {describe_temperature(scaling)}; stored in {file}")
