"""The entry point of the command line: parse options, run a command, print errors.

Modules that are slow to import are imported by the command that needs them.
"""

import contextlib
import dataclasses
import importlib
import io
import os
import shutil
import sys
import textwrap
import time
import traceback
import typing
from collections.abc import Sequence
from typing import Any

from resnetlab.cli.global_options import GlobalOptions, take_global_options
from resnetlab.cli.terminal import ReaderGoneError, WhenReaderLeaves, protected

COMMANDS = {
    "study": "compare plain and residual networks by depth, with repetitions",
    "train": "train one network; an interrupted run continues exactly",
    "lr-find": "find a learning rate by training while it rises",
    "evaluate": "measure errors, confusions and calibration of a network",
    "predict": "classify images, and explain the predictions",
    "embed": "write the features of images; find the nearest images",
    "export": "write a verified ONNX, OpenVINO or torch.export file, or int8",
    "serve": "serve predictions over HTTP, with a web page",
    "inspect": "identify the ResNet in a weights file, and convert it",
    "diagnose": "measure gradients and activations of each layer",
    "deepen": "make a network deeper without changing its outputs",
    "lesion": "remove and reorder the blocks of networks, and measure errors",
    "landscape": "measure and draw the loss around the weights of networks",
    "report": "write the report of a study again from its records",
    "plan": "predict time, memory, bottleneck and cost of a training run",
    "models": "list the networks: parameters, MACs, layers",
    "weights": "list published weights by name; share your own",
    "data": "check a data set, or pack it into shards",
    "doctor": "find the bottleneck of a training run",
    "verify-resume": "verify that a killed run resumes to the same result",
}
"""Description of each command; its module in `cli/` has the same name."""

RENAMED_OPTIONS = {
    "train": {
        "--accumulate": "--grad-accum-steps",
        "--patience-seconds": "--timeout",
        "--recompute": "--activation-checkpointing",
    },
    "study": {"--no-construct": "--no-identity-init"},
    "serve": {"--timeout-s": "--timeout", "--body-timeout-s": "--body-timeout"},
}
"""New names of the options that a command no longer has."""

WITHOUT_READER: dict[str, WhenReaderLeaves] = {
    **dict.fromkeys(("train", "study", "serve"), "warn"),
    **dict.fromkeys(("evaluate", "embed", "export", "inspect", "diagnose", "deepen", "lesion"), "finish"),
    **dict.fromkeys(("landscape", "lr-find", "report", "weights"), "finish"),
}
"""Commands that go on if the reader of their output leaves, since their result is a file or a service."""
WRITES_FILES = {"predict": "--explain", "data": "pack"}
"""Words with which other commands write files too, and so go on."""

ERROR_DELAY_S = 10.0
"""Seconds that a process waits before it reports an error if it is not the first one on its machine.

The first one usually reports the same error and exits within this time. If another process fails alone, the survivors
need longer than this to find the lost one (`training.distributed`), so that its own error is printed before."""


class UsageError(Exception):
    """An invalid call; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 if it failed, 2 for an invalid call, 130 after Ctrl-C."""
    words, shared = take_global_options(sys.argv[1:] if arguments is None else arguments)
    os.environ["MPLBACKEND"] = "agg"  # figures are files; a notebook's backend may be unknown to this environment
    # scikit-learn loads joblib, which is not used here, and warns where shared memory cannot be written.
    os.environ.setdefault("JOBLIB_MULTIPROCESSING", "0")
    try:
        with protected(_when_reader_leaves(words)):
            return _run(words, shared)
    except ReaderGoneError:
        return 0


def _when_reader_leaves(words: Sequence[str]) -> WhenReaderLeaves:
    command = words[0] if words else ""
    return "finish" if WRITES_FILES.get(command) in words else WITHOUT_READER.get(command, "stop")


def _run(words: Sequence[str], shared: GlobalOptions) -> int:
    """Run one command and print its error, if any; return the exit status."""
    try:
        shared.set_cache_folder()
        status = dispatch(words, shared)
        with contextlib.suppress(ReaderGoneError):  # the work is done
            sys.stdout.flush()
        return status
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except UsageError as error:
        return _fail(str(error), 2, wait_s=ERROR_DELAY_S)
    except Exception as error:
        status = 2 if _is_invalid_input(error) else 1
        if shared.debug:
            traceback.print_exc()
            return status
        from resnetlab.system.process_group import LostProcessError

        wait_s = 0 if isinstance(error, LostProcessError) else ERROR_DELAY_S  # each survivor's report differs
        return _fail(str(error) or type(error).__name__, status, wait_s=wait_s)


def dispatch(words: Sequence[str], shared: GlobalOptions) -> int:
    """Parse the options of a command and run it; return its exit status."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from resnetlab import __version__

        print(f"resnetlab {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        from resnetlab.extension import did_you_mean

        raise UsageError(f"there is no command {name!r}{did_you_mean(name, COMMANDS)}; commands: {', '.join(COMMANDS)}")
    command = importlib.import_module(f"resnetlab.cli.{name.replace('-', '_')}")
    options = parse(command.Options, name, rest)
    if name == "train" and (processes := options.execution.processes) != 1:
        from resnetlab.cli.local_processes import needs_processes, run_processes

        if needs_processes(processes):
            return run_processes(processes, [*words, *(["--debug"] if shared.debug else [])])
    return command.run(options)


def overview() -> str:
    """Return the output of `resnetlab --help`."""
    lines = [
        "usage: resnetlab COMMAND [options]",
        "",
        "Deep residual learning: study degradation; train, evaluate and deploy ResNets.",
        "",
        *(f"  {name:<13} {purpose}" for name, purpose in COMMANDS.items()),
        "",
        "resnetlab COMMAND --help lists a command's options.",
        "--version prints the version; --debug shows tracebacks;",
        "--cache-dir FOLDER is the folder for downloaded files (or RESNETLAB_CACHE).",
    ]
    return "\n".join(lines)


def parse(kind: type, name: str, words: Sequence[str]) -> Any:
    """Parse the words after a command into its options.

    Args:
        kind: The dataclass that declares the options.
        name: The command.
        words: The words after it.

    Raises:
        UsageError: if an option is unknown, renamed or invalid.
    """
    import tyro

    from resnetlab.cli.help_text import HelpText, join_description_lines
    from resnetlab.cli.option_errors import describe_invalid, split_lists, suggest_option

    _refuse_renamed_options(name, words)
    words = split_lists(kind, words)
    if "--help" in words or "-h" in words:
        join_description_lines(kind)
    stderr, help_text = io.StringIO(), HelpText(sys.stdout)
    try:
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(help_text):
            options, unknown = tyro.cli(
                kind,
                prog=f"resnetlab {name}",
                description=_paragraphs(kind.__doc__ or ""),
                args=words,
                return_unknown_args=True,
                config=(
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                    tyro.conf.PositionalMetavarFromFieldName,
                ),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            help_text.print()
            raise
        message = describe_invalid(kind, words) or _first_message(stderr.getvalue())
        raise UsageError(f"{message}; see resnetlab {name} --help") from None
    if unknown and not any(word.startswith("-") for word in unknown):
        options, unknown = _extend_positional(options, unknown)
    if unknown:
        noun = "option" if unknown[0].startswith("-") else "argument"
        hint = suggest_option(kind, unknown[0])
        raise UsageError(f"{name} has no {noun} {unknown[0]!r}{hint}; see resnetlab {name} --help")
    return options


def _refuse_renamed_options(name: str, words: Sequence[str]) -> None:
    renamed = RENAMED_OPTIONS.get(name, {})
    for word in words:
        option = word.partition("=")[0].replace("_", "-")
        if option in renamed:
            raise UsageError(f"{name}: {option} is now {renamed[option]}; see resnetlab {name} --help")


def _extend_positional(options: Any, words: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """Append words to the positional option of any length: argparse stops at the first option between its values.

    Returns:
        The options, and the words left over.
    """
    from tyro.conf import Positional

    for name, hint in typing.get_type_hints(type(options), include_extras=True).items():
        kind, *markers = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if Positional in markers and typing.get_origin(kind) is tuple:
            value_type = typing.get_args(kind)[0]
            return dataclasses.replace(options, **{name: (*getattr(options, name), *map(value_type, words))}), ()
    return options, words


def _paragraphs(docstring: str) -> str:
    """Return a docstring's paragraphs, each wrapped to the terminal's width, 80 columns at most.

    Lines are indented, because tyro joins a line that starts with a letter to the line before.
    """
    width = min(shutil.get_terminal_size().columns, 80)
    paragraphs = (" ".join(part.split()) for part in docstring.split("\n\n"))
    return "\n\n".join(textwrap.fill(text, width, initial_indent=" ", subsequent_indent=" ") for text in paragraphs)


def _first_message(box: str) -> str:
    """Return the first message in tyro's error box as one line. In ASCII output the box consists of rulers only."""
    if "╭" not in box:
        box = box.partition("---")[2]  # the title stands above the first ruler
    paragraphs: list[list[str]] = [[]]
    for line in (line.strip(" │|") for line in box.splitlines()):
        if (line and set(line) <= set("─-╭╮╰╯")) or line.startswith("╭"):
            paragraphs.append([])
        elif line:
            paragraphs[-1].append(line)
    first = next((lines for lines in paragraphs if lines), ["the options cannot be read"])
    return " ".join(first).replace("'None', ", "").replace(", 'None'", "")  # tyro's default of an option


def _is_invalid_input(error: Exception) -> bool:
    from resnetlab.config import ConfigError
    from resnetlab.training.run_files.record import RecordError

    return isinstance(error, ConfigError | RecordError)


def _fail(message: str, status: int, *, wait_s: float = 0.0) -> int:
    """Print an error, once for all processes that torchrun started on this machine; return `status`.

    The first process prints and exits; torchrun then ends the others by SIGTERM within a tenth of a second. A process
    that still runs after `wait_s` has an error of its own, and prints it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(wait_s)
    print(f"resnetlab: {' '.join(message.split())}", file=sys.stderr)
    return status
