"""Checks of the arguments of `fit` and `Trainer`: a mistake is one line."""

from collections.abc import Iterable

from resnetlab.config import ConfigError, RunConfig
from resnetlab.serialization import check, check_type
from resnetlab.training.callbacks import Callback
from resnetlab.training.runtime_options import RuntimeOptions


def check_run_config(config: object) -> None:
    """Raise unless a value is a `RunConfig`.

    Raises:
        ConfigError: with the way to make one.
    """
    if not isinstance(config, RunConfig):
        name = repr(config) if isinstance(config, str) else '"digits"'
        raise ConfigError(
            f"config must be a RunConfig, not {config!r}; for example resnetlab.RunConfig("
            f"resnetlab.model_config('resnet20'), resnetlab.DataConfig({name}), resnetlab.recipe('digits'))"
        )


def check_arguments(config: object, callbacks: object, options: object) -> None:
    """Raise unless configuration, callbacks and options have their types; any object with a callback's methods is one.

    Raises:
        ConfigError: naming the argument that has not.
    """
    check_run_config(config)
    check(isinstance(callbacks, Iterable), f"callbacks must be a list of resnetlab.Callback, not {callbacks!r}")
    assert isinstance(callbacks, Iterable)
    methods = [name for name in vars(Callback) if name.startswith("on_")]
    for callback in callbacks:
        known = all(hasattr(callback, name) for name in methods)
        check(known, f"callbacks must be a list of resnetlab.Callback; {callback!r} is none")
    if options is not None:
        check_type("options", options, RuntimeOptions, example="resnetlab.RuntimeOptions(workers=2)")


def check_needs_no_folder(options: RuntimeOptions) -> None:
    """Raise unless the options of a run without a run directory write no files.

    Raises:
        ConfigError: naming the option that does.
    """
    for name in ("track", "keep_states_epochs", "checkpoint_steps"):
        is_unset = getattr(options, name) is None
        check(is_unset, f"{name} needs a run directory; name one with fit(config, out), or leave it out")
