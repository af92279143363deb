"""The README keeps its word: every command in its code blocks runs, and so does its Python."""

import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from resnetlab.cli import study
from resnetlab.cli.main import parse
from resnetlab.models.zoo import build_model
from resnetlab.study.presets import preset_of

from conftest import ROOT

TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands():
    lines = [line.split("  #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder that the commands share, in order; in it are a reader's own photographs."""
    folder = tmp_path_factory.mktemp("readme")
    chance = np.random.default_rng(0)
    for shade, name in enumerate(("cat", "dog", "größe")):
        (folder / "photos" / name).mkdir(parents=True)
        for index in range(20):
            pixels = chance.integers(0, 60, (36, 32, 3), dtype=np.uint8) + np.uint8(60 * shade)
            Image.fromarray(pixels).save(folder / "photos" / name / f"{index}.jpg")
    for name in ("robin", "heron"):
        (folder / "birds" / name).mkdir(parents=True)
        for index in range(12):
            pixels = chance.integers(0, 200, (40, 40, 3), dtype=np.uint8) + np.uint8(50 * (name == "heron"))
            Image.fromarray(pixels).save(folder / "birds" / name / f"{index}.png")
    weights = build_model("resnet20", 10).state_dict()  # as a well-known repository saves them
    foreign = {f"module.{key.replace('fc.', 'linear.')}": value for key, value in weights.items()}
    torch.save({"state_dict": foreign, "best_prec1": 10.0}, folder / "resnet20.th")
    return folder


def test_there_are_commands():
    assert {"make study", "make test"} <= set(commands())
    assert sum(command.startswith("resnetlab ") for command in commands()) >= 5


@pytest.mark.slow  # two minutes of studies and trainings
@pytest.mark.parametrize("command", commands())
def test_command_runs(command, workplace):
    words = shlex.split(command)
    if words[0] == "make":  # CI runs the targets themselves; here, that they are there
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0] == "curl":  # asked below, while there is a server
        assert any("resnetlab serve" in command for command in commands())
        return
    if words[0] == "source":
        assert words[1] == ".venv/bin/activate"
        return
    assert words[0] in ("resnetlab", "torchrun"), f"nothing here runs {words[0]}"
    if "--preset" in words:  # tests/slow runs them; here, that it is one
        options = parse(study.Options, "study", words[2:])
        assert study.grid_of(options, preset_of(options.preset)).runs()
        return
    if "cifar10" in words and "--data" in words:  # hours, and a download: here, that the options say what they should
        _, name, *rest = words
        command = importlib.import_module(f"resnetlab.cli.{name}")
        options = parse(command.Options, name, rest)
        if name == "train":
            config, _ = command.resolve(options)
            assert (config.data.name, config.recipe.steps) == ("cifar10", 64_000)
        return
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    if words[:2] == ["resnetlab", "serve"]:
        serve(words, workplace, environment)
        return
    subprocess.run(words, cwd=workplace, env=environment, check=True, capture_output=True, timeout=150)


def serve(words, workplace, environment):
    """Serve on a port that is free, ask what the README asks, and stop it as Ctrl-C does."""
    asking = [shlex.split(command) for command in commands() if command.startswith("curl ")]
    assert asking
    with subprocess.Popen([*words, "--port", "0"], cwd=workplace, env=environment, stdout=subprocess.PIPE) as server:
        assert server.stdout
        try:
            address = server.stdout.readline().decode().split()[-1]
            for one in asking:
                here = [word.replace("http://127.0.0.1:8000/", address) for word in one]
                assert here != one
                subprocess.run([*here, "--fail"], cwd=workplace, check=True, capture_output=True, timeout=30)
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(30) == 0


@pytest.mark.slow
def test_the_python_runs(workplace):
    (code,) = blocks("python")
    subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=workplace, check=True, timeout=100)


def test_files_it_names_are_there():
    names = re.findall(r"\]\(([^)#:]+)\)", TEXT) + re.findall(r'src="([^":]+)"', TEXT)
    assert names
    assert [name for name in names if not (ROOT / name).exists()] == []
    assert [f for f in re.findall(r"`(benchmarks/\S+\.py|docs/\S+)`", TEXT) if not (ROOT / f.split()[0]).exists()] == []
