"""Parse, dispatch, print errors. Nothing heavy is imported before a command runs."""

import contextlib
import dataclasses
import difflib
import importlib
import io
import os
import shutil
import sys
import textwrap
import time
import typing
from collections.abc import Sequence
from typing import Any

COMMANDS = {
    "study": "see degradation and its cure: plain and residual, depth by depth",
    "train": "train one network on your images, and never lose an hour",
    "evaluate": "judge a network: errors, confusions, calibration, mistakes",
    "predict": "name what is in pictures, and show why",
    "export": "ONNX, OpenVINO or torch.export, int8: written only if it agrees",
    "serve": "answer over HTTP, with a page for people",
    "inspect": "say which ResNet is in a file of weights, and convert it",
    "diagnose": "what gradients and layers do in one network",
    "deepen": "make a network deeper without changing what it computes",
    "report": "draw a study again from its records alone",
    "plan": "predict time, memory, bottleneck and money of a training",
    "models": "the networks: parameters, MACs, layers",
    "data": "check a data set, or pack it into shards",
    "doctor": "which stage of a training holds the rest back",
    "verify-resume": "prove on this machine that a killed run ends as an unbroken one",
}
"""Name to what it is for; each is a file in `commands/`."""

HEARD_S = 2.0
"""Seconds in which the first of several processes tells what is wrong. Where another leaves with an error of its own,
those that are left call the roll before it is ended (`training.distributed.CALL_S`): that takes longer."""


class UsageError(Exception):
    """A call that cannot be understood; the message is one line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 where the work failed, 2 for a mistake in the call, 130 after Ctrl-C."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show ends no work
    try:
        return dispatch(words)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:  # `resnetlab models | head`: nobody reads on, which is nobody's mistake
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UsageError as error:
        return _fail(str(error), 2, wait_s=HEARD_S)
    except Exception as error:
        if debug:
            raise
        from resnetlab.system.process_group import LostProcessError

        alone = isinstance(error, LostProcessError)  # whoever is left has its own view of it
        message = str(error) or type(error).__name__
        return _fail(message, 2 if _is_callers_mistake(error) else 1, wait_s=0 if alone else HEARD_S)


def dispatch(words: Sequence[str]) -> int:
    """Find the command, parse its options, run it."""
    if not words or words[0] in ("-h", "--help"):
        print(overview())
        return 0
    if words[0] == "--version":
        from resnetlab import __version__

        print(f"resnetlab {__version__}")
        return 0
    name, rest = words[0], words[1:]
    if name not in COMMANDS:
        raise UsageError(
            f"there is no command {name!r}{_did_you_mean(name, COMMANDS)}; commands: {', '.join(COMMANDS)}"
        )
    command = importlib.import_module(f"resnetlab.cli.{name.replace('-', '_')}")
    return command.run(parse(command.Options, name, rest))


def overview() -> str:
    """Return what `resnetlab --help` prints."""
    lines = [
        "usage: resnetlab COMMAND [options]",
        "",
        "Deep residual learning: see degradation and its cure, train, evaluate.",
        "",
        *(f"  {name:<13} {purpose}" for name, purpose in COMMANDS.items()),
        "",
        "resnetlab COMMAND --help lists a command's options.",
        "--version prints the version; --debug shows tracebacks.",
    ]
    return "\n".join(lines)


def parse(kind: type, name: str, words: Sequence[str]) -> Any:
    """Make a command's options from its words; the options are declared once, in its dataclass.

    Raises:
        UsageError: one line for what tyro says in a box.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
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
            raise
        raise UsageError(f"{_one_line(said.getvalue())}; see resnetlab {name} --help") from None
    if unknown and not any(word.startswith("-") for word in unknown):
        options, unknown = _taken_up(options, unknown)
    if unknown:
        known = [f"--{field.replace('_', '-')}" for field in kind.__dataclass_fields__]
        what = "option" if unknown[0].startswith("-") else "argument"
        hint = _did_you_mean(unknown[0], known)
        raise UsageError(f"{name} has no {what} {unknown[0]!r}{hint}; see resnetlab {name} --help")
    return options


def _taken_up(options: Any, words: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """Add words to the positional option that takes any number: argparse stops at the first option between them.

    Returns the options, and the words that no option takes.
    """
    from tyro.conf import Positional

    for name, hint in typing.get_type_hints(type(options), include_extras=True).items():
        kind, *conf = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
        if Positional in conf and typing.get_origin(kind) is tuple:
            make = typing.get_args(kind)[0]
            return dataclasses.replace(options, **{name: (*getattr(options, name), *map(make, words))}), ()
    return options, words


def _paragraphs(docstring: str) -> str:
    """Return a docstring's paragraphs, each filled to the terminal's width, 80 columns at most.

    Lines are indented: tyro joins a line that starts with a letter to the one before.
    """
    width = min(shutil.get_terminal_size().columns, 80)
    paragraphs = (" ".join(part.split()) for part in docstring.split("\n\n"))
    return "\n\n".join(textwrap.fill(text, width, initial_indent=" ", subsequent_indent=" ") for text in paragraphs)


def _one_line(box: str) -> str:
    """Return what tyro says first in its box, without the box; where the output is ASCII, the box is only rulers."""
    if "╭" not in box:
        box = box.partition("---")[2]  # the title stands above the first ruler
    paragraphs: list[list[str]] = [[]]
    for line in (line.strip(" │|") for line in box.splitlines()):
        if (line and set(line) <= set("─-╭╮╰╯")) or line.startswith("╭"):
            paragraphs.append([])
        elif line:
            paragraphs[-1].append(line)
    first = next((lines for lines in paragraphs if lines), ["the options cannot be read"])
    return " ".join(first).replace("'None', ", "").replace(", 'None'", "")  # which stands for an option not given


def _did_you_mean(word: str, known: Sequence[str] | dict[str, str]) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _is_callers_mistake(error: Exception) -> bool:
    from resnetlab.config import ConfigError
    from resnetlab.training.record import RecordError

    return isinstance(error, ConfigError | RecordError)


def _fail(message: str, status: int, *, wait_s: float = 0.0) -> int:
    """Print an error, once for all processes that torchrun started on this machine.

    The first of them speaks and leaves, and torchrun ends the others by SIGTERM within a tenth of a second. Who is
    still here after `wait_s` had an error of its own, and tells it.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("LOCAL_RANK", "0") != "0":
        with contextlib.suppress(KeyboardInterrupt):
            time.sleep(wait_s)
    print(f"resnetlab: {' '.join(message.split())}", file=sys.stderr)
    return status
