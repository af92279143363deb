"""Commands in README and documentation: extract them from a page, check their options, run them in order."""

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.distributed.run import get_args_parser

from helpers.command_server import run_forked
from resnetlab.cli.main import parse
from resnetlab.models.pretrained.catalogue import CATALOGUE
from resnetlab.models.zoo import build_model

from conftest import ROOT

CELL = re.compile(r"\| `((?:resnetlab|torchrun) [^`]+)` \|$")
"""A table cell that holds one command, the last of its row."""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
FOREIGN = ("docker", "make", "ray")
"""Programs whose options are not checked."""


def code_blocks(text: str, language: str) -> list[str]:
    """Return the fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str, language: str = "bash") -> list[str]:
    """Return the commands in code blocks of one language, in order; for bash also those in table cells.

    A line that ends with a backslash continues.
    """
    found: list[str] = []
    inside = None
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("```"):
            inside = None if inside else line.removeprefix("```") or "text"
        elif inside == language and line.strip() and not line.startswith("#"):
            found.append(line.split("  #")[0].strip())
        elif inside is None and language == "bash":
            found += CELL.findall(line)
    return found


def our_words(words: list[str]) -> list[str] | None:
    """Return command and options of a call of resnetlab, also through torchrun; None for another program."""
    words = [word for word in words if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[0] == "torchrun":
        return words[words.index("resnetlab") + 1 :]
    return words[1:] if words[0] == "resnetlab" else None


def parsed(words: list[str]) -> Any:
    """Return the options of a command, parsed as the command line parses them."""
    name, *rest = words
    return parse(importlib.import_module(f"resnetlab.cli.{name.replace('-', '_')}").Options, name, rest)


def check_options(command: str) -> None:
    """Fail unless the program of a command accepts its options."""
    words = shlex.split(command)
    program = next(word for word in words if "=" not in word)
    ours = our_words(words)
    if ours is not None:
        assert ours[0].startswith("--") or parsed(ours)
    if program == "torchrun":
        arguments = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
        assert arguments.module
        assert arguments.training_script == "resnetlab"
    elif program == "pip":
        extras = re.findall(r"resnetlab\[([\w,]+)\]", command)
        assert all(extra in EXTRAS for names in extras for extra in names.split(","))
    else:
        assert ours is not None or program in FOREIGN, f"unknown program {program}"


def make_workplace(folder: Path) -> Path:
    """Fill a folder with a user's images in `photos/` and `birds/`, and with weights of another project."""
    rng = np.random.default_rng(0)
    for shade, name in enumerate(("cat", "dog", "größe")):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(20):
            pixels = rng.integers(0, 60, (36, 32, 3), dtype=np.uint8) + np.uint8(60 * shade)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.jpg")
    for name in ("robin", "heron"):
        (folder / "birds" / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 200, (40, 40, 3), dtype=np.uint8) + np.uint8(50 * (name == "heron"))
            Image.fromarray(pixels).save(folder / "birds" / name / f"{index}.png")
    weights = build_model("resnet20", 10).state_dict()  # with the keys of pytorch_resnet_cifar10
    imported = {f"module.{key.replace('fc.', 'linear.')}": value for key, value in weights.items()}
    torch.save({"state_dict": imported, "best_prec1": 10.0}, folder / "resnet20.th")
    return folder


def run_command(command: str, workplace: Path, *, page: str) -> None:
    """Run one command of a page in a folder that the page's commands share.

    Long studies, downloads, `verify-resume` and `make` targets have tests of their own; of these only the options are
    checked. A training on digits or photos that states no length takes one epoch.

    Args:
        command: The command line.
        workplace: A folder from `make_workplace`, in which the page's earlier commands ran.
        page: The text of the page, with the requests to send to its server.
    """
    words = shlex.split(command)
    if words[0] != "curl":
        check_options(command)
    if "train" in words and {"digits", "photos"} & set(words) and not {"--epochs", "--steps", "--resume"} & set(words):
        words += ["--epochs", "1"]
    if words[0] == "make":
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
    elif words[:2] == ["resnetlab", "serve"]:
        _serve_and_request(words, workplace, page)
    elif words[0] == "resnetlab" and not _has_its_own_test(words):
        forked = run_forked(words[1:], cwd=workplace, environment=_environment(), timeout=250)
        assert forked.returncode == 0, forked.stderr
    elif words[0] == "torchrun" and not _has_its_own_test(words):
        done = run_forked(
            words[1:], cwd=workplace, environment=_environment(), timeout=250, module="torch.distributed.run"
        )
        assert done.returncode == 0, done.stderr
    elif words[0] == "curl":
        assert any("resnetlab serve" in other for other in commands(page))  # sent while the server runs
    else:
        assert words[0] in ("resnetlab", "pip"), f"no test runs {words[0]}"


def run_python(text: str, workplace: Path) -> None:
    """Run the Python blocks of a page one after the other, with warnings as errors."""
    code = "\n".join(code_blocks(text, "python"))
    done = run_forked([code], cwd=workplace, environment=_environment(), timeout=200, module="-c")
    assert done.returncode == 0, done.stderr


def _has_its_own_test(words: list[str]) -> bool:
    """Return whether another test runs the command with its options, or it needs hours and a download."""
    downloads = "--data" in words and words[words.index("--data") + 1] == "cifar10"
    downloads = downloads or any(word in CATALOGUE or word.startswith("hf://") for word in words)
    has_test = words == ["resnetlab", "study"] or {"--preset", "--family"} & set(words) or words[1] == "verify-resume"
    return bool(has_test) or downloads


def _environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _serve_and_request(words: list[str], workplace: Path, page: str) -> None:
    """Serve on a free port, send the requests of the page, and stop the server as Ctrl-C does."""
    requests = [shlex.split(command) for command in commands(page) if command.startswith("curl ")]
    requests = requests or [["curl", "http://127.0.0.1:8000/readyz"]]
    with subprocess.Popen([*words, "--port", "0"], cwd=workplace, env=_environment(), stdout=subprocess.PIPE) as server:
        assert server.stdout
        try:
            address = server.stdout.readline().decode().split()[-1]
            for request in requests:
                here = [word.replace("http://127.0.0.1:8000/", address) for word in request]
                assert here != request
                subprocess.run([*here, "--fail"], cwd=workplace, check=True, capture_output=True, timeout=30)
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0
