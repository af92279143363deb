"""`resnetlab train` on one's own images, or with --minutes: the request, the consent, the plan."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnetlab.config import ConfigError, DataConfig, RunConfig

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.cli.train_options import Options
    from resnetlab.system.process_group import ProcessGroup
    from resnetlab.training.plan_run import PlanRequest, RunPlan
    from resnetlab.training.runtime_options import RuntimeOptions

SCRATCH = "none"
"""The value of `--from` for random weights."""


def check_plan_options(options: "Options") -> None:
    """Raise `ConfigError` for options of the plan that are out of range or contradict others."""
    from resnetlab.training.recipe_settings import parse_settings

    if options.minutes is None:
        return
    if not 0 < options.minutes < float("inf"):
        raise ConfigError(f"minutes must be above 0, not {options.minutes:g}")
    in_settings = parse_settings(options.recipe.set)
    for name in ("epochs", "steps"):
        if getattr(options.recipe, name) is not None or name in in_settings:
            option = f"--set {name}" if name in in_settings else f"--{name}"
            raise ConfigError(f"--minutes and {option} both set the length of the run; give one of them")


def is_planned(options: "Options") -> bool:
    """Return whether `train` plans a new run: one of so many minutes, or one's own images with anything left open."""
    if options.data is None:
        return False
    return options.minutes is not None or (
        _is_custom(options) and (options.recipe.name is None or _leaves_network(options))
    )


def chooses_network(options: "Options") -> bool:
    """Return whether the plan chooses the network: the run's directory is then named without it."""
    return is_planned(options) and _leaves_network(options) and (options.recipe.name is None or _is_custom(options))


def chooses_weights(options: "Options") -> bool:
    """Return whether the plan may choose published weights."""
    return chooses_network(options) and _is_custom(options) and options.weights is None


def _is_custom(options: "Options") -> bool:
    from resnetlab.data.registry import LISTED_KINDS, detect_kind

    return options.data is not None and detect_kind(DataConfig(options.data)) in LISTED_KINDS


def _leaves_network(options: "Options") -> bool:
    return options.model is None and given_weights(options) is None


def given_weights(options: "Options") -> Path | None:
    """Return the initial weights that the user has named; `None` also for `--from none`."""
    return None if options.weights is None or str(options.weights) == SCRATCH else options.weights


def plan_request(options: "Options", config: RunConfig, changes: dict[str, Any]) -> "PlanRequest":
    """Return what the user has decided.

    Args:
        options: The command's options.
        config: The configuration without a plan; its data and weights are used.
        changes: The fields of the recipe that the user gives.
    """
    from resnetlab.training.plan_run import PlanRequest

    return PlanRequest(
        data=config.data,
        model=options.model,
        weights=SCRATCH if str(options.weights) == SCRATCH else config.weights,
        recipe=options.recipe.name,
        changes=changes,
        run_fields={name: getattr(config, name) for name in options.run_fields()},
        minutes=options.minutes,
    )


def make_plan(
    request: "PlanRequest",
    console: "Console",
    process_group: "ProcessGroup",
    *,
    yes: bool,
    max_expected_s: float | None,
) -> "RunPlan":
    """Plan a run in the first process, and return the plan in every one.

    Raises:
        ConfigError: for data that cannot be read, or a run longer than `max_expected_s`.
        DownloadError: if the user wants weights that cannot be downloaded.
    """
    from resnetlab.training.plan_run import plan_run
    from resnetlab.training.run_time import too_long

    def log(line: str) -> None:
        console.print(line, style="dim", highlight=False)

    needing = request.recipe if request.needs_weights else None

    def plan() -> "RunPlan":
        planned = plan_run(
            request,
            lambda name: consent(name, console, yes=yes, recipe=needing),
            log=log,
            num_processes=process_group.size,
        )
        if max_expected_s is not None and (planned.expected_s or 0) > max_expected_s:
            raise ConfigError(too_long(planned.expected_s or 0))
        return planned

    return process_group.run_on_first(plan)


def consent(name: str, console: "Console", *, yes: bool, recipe: str | None = None) -> bool:
    """Return whether published weights are on this machine; they are downloaded if the user agrees.

    The user is asked on a terminal. Elsewhere nothing is downloaded without `--yes`; a line says how to get them.

    Args:
        name: The weights.
        console: Where the question is asked.
        yes: Whether the user has agreed already.
        recipe: A recipe that cannot do without weights, if the user has set one.

    Raises:
        ConfigError: if the user does not agree, and `recipe` needs them.
        DownloadError: if the user agrees, and they cannot be downloaded.
    """
    from resnetlab.models.pretrained.catalogue import CATALOGUE
    from resnetlab.models.pretrained.fetch import is_cached, model_file
    from resnetlab.system.download import DownloadError
    from resnetlab.system.download_progress import size_text

    entry = CATALOGUE[name]
    if is_cached(entry):
        return True
    host = entry.file.url.split("/")[2]
    size = "" if entry.size_mib is None else f"{size_text(entry.size_mib * 2**20)} "
    if not yes and sys.stdin.isatty() and console.is_terminal:
        question = f"start from published weights: download {name}, {size}from {host}? [Y/n] "
        console.print(question, end="", highlight=False, soft_wrap=True)
        try:
            answer = console.input()
        except EOFError:  # Ctrl-D
            answer = "n"
        yes = answer.strip().lower() in ("", "y", "yes")
        if not yes and recipe is None:
            console.print("from random weights then", style="dim")
            return False
    if not yes and recipe is not None:
        raise ConfigError(
            f"recipe {recipe} needs trained weights, and {name} is not on this machine; --yes downloads it ({size}from "
            f"{host}), --from names others"
        )
    if not yes:
        console.print(
            f"from random weights: {name} is not on this machine; --from {name} or --yes downloads it ({size}from "
            f"{host}), --from {SCRATCH} says that random weights are meant",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
        return False
    try:
        model_file(entry)
    except DownloadError as error:
        other = "--from FILE takes other weights" if recipe else f"--from {SCRATCH} trains from random weights"
        raise DownloadError(f"{error}; {other}") from error
    return True


def with_plan(runtime: "RuntimeOptions", plan: "RunPlan") -> "RuntimeOptions":
    """Return the options of a run with the measurements of its plan."""
    return replace(runtime, execution=plan.execution, expected_s=plan.expected_s)
