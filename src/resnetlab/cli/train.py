"""`resnetlab train`: run a training, and print its plan, its progress and its result."""

import functools
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from resnetlab.cli.terminal import print_json
from resnetlab.cli.train_config import continues, resolve_run, runtime_options
from resnetlab.cli.train_options import Options
from resnetlab.cli.train_plan import is_planned, make_plan, plan_request, with_plan
from resnetlab.config import ConfigError, RunConfig
from resnetlab.system.process_group import process_group_from_env

if TYPE_CHECKING:
    from rich.console import Console

    from resnetlab.training.reports import TrainResult


def run(options: Options) -> int:
    """Train; return 0, or 129, 130 or 143 if a signal stopped the run after its state was saved."""
    config, out = resolve_run(options)
    runtime = runtime_options(options, out)
    _check_paths(config, out)
    request = None
    if is_planned(options) and not continues(options, out):
        request = plan_request(options, config, options.recipe.changes())

    from resnetlab.cli.console import open_console
    from resnetlab.cli.progress import TrainDisplay
    from resnetlab.cli.train_plan_output import RunSummary
    from resnetlab.system.allocator import use_huge_pages

    use_huge_pages()
    first = process_group_from_env().is_first
    console = open_console(stderr=options.json, quiet=not first)
    console.print("loading PyTorch and the images …", style="dim")
    from resnetlab.training.signal_handling import InterruptedRunError, StopSignal

    try:
        with StopSignal() as stop_signal:
            from resnetlab.training.distributed import join_process_group
            from resnetlab.training.fit import fit

            with join_process_group(options.execution.timeout_s) as process_group:
                if request is not None:
                    limit_s = runtime.max_expected_s
                    plan = make_plan(request, console, process_group, yes=options.yes, max_expected_s=limit_s)
                    config, runtime = plan.config, with_plan(runtime, plan)
                with TrainDisplay(console, announces_evaluation=not options.json) as display:
                    log = functools.partial(console.print, style="dim", highlight=False)
                    trained = fit(
                        config,
                        out,
                        options=replace(runtime, process_group=process_group, log=log),
                        callbacks=[RunSummary(console, is_planned=request is not None), display],
                        stop_signal=stop_signal,
                    )
    except InterruptedRunError as stopped:
        again = "without --fresh the same command" if runtime.fresh else "the same command"
        saved = f"saved in {out}, {again} continues" if (out / "checkpoint").exists() else "nothing was saved"
        console.print(f"{stopped}; {saved}", soft_wrap=True, highlight=False)
        return stopped.status
    if first:
        _print_end(trained, config, out, console, json=options.json)
    return 0


def _print_end(trained: "TrainResult", config: RunConfig, out: Path, console: "Console", *, json: bool) -> None:
    """Print the result of a run, and the commands that use the network; or JSON alone, on standard output."""
    from resnetlab.cli.train_output import print_next_commands, print_nothing_trained, print_result

    if trained.was_finished:
        print_nothing_trained(out, config, console)
    scaling = trained.card.temperature_scaling
    if json:
        print_json({"out": str(out), **trained.result, **({"temperature": scaling.temperature} if scaling else {})})
        return
    print_result(trained.result, out, console, batch_size=config.recipe.batch_size)
    if scaling:
        from resnetlab.evaluation.summary import describe_temperature

        console.print(f"temperature {describe_temperature(scaling)}", soft_wrap=True, highlight=False)
    print_next_commands(out, config.data, console)


def _check_paths(config: RunConfig, out: Path) -> None:
    """Raise `ConfigError` for an unusable path, before the seconds that PyTorch takes to load."""
    from resnetlab.data.registry import detect_kind

    detect_kind(config.data)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder with --out")
    start = None if config.weights is None else Path(config.weights).resolve()
    if start in (out.resolve(), (out / "model.safetensors").resolve()):
        raise ConfigError(
            f"the run in {out} would overwrite its initial weights {config.weights}; name another folder with --out"
        )
