"""Training on images with several labels: the options that need one class an image, and the lines that describe it."""

from resnetlab.config import ConfigError, RunConfig
from resnetlab.data.mixing import is_mixing

MEASURES = (
    "several an image; loss: binary cross-entropy of each label",
    "error: images with a wrong label at probability 0.5; best epoch: highest mAP",
)
"""Lines on loss, error and best epoch of such a run, for its start."""


def check_multi_label_options(config: RunConfig, name: str) -> None:
    """Check that a configuration does not need one class an image; `name` is that of the data.

    Raises:
        ConfigError: if it does; the message names the option and the remedy.
    """
    recipe = config.recipe
    needs_class = {
        "--balanced-order on": (recipe.balanced_order, "leave it out"),
        "--class-weights balanced": (recipe.class_weights != "none", "leave it out"),
        "mixup or cutmix": (is_mixing(recipe), "use --set mixup=0 cutmix=0"),
        "bce_threshold": (recipe.bce_threshold is not None, "leave it out"),
        "--fit-temperature": (config.fit_temperature, "leave it out: a threshold is fitted for each label"),
    }
    for option, (is_used, remedy) in needs_class.items():
        if is_used:
            raise ConfigError(f"{option} needs one class an image, and images of {name} have several labels; {remedy}")
