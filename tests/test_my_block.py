"""The example of an own block and optimizer: short, through public functions, with a comparison and a figure."""

import ast
import importlib.util
import os
import subprocess
import sys

import pytest
from PIL import Image

import resnetlab
from resnetlab.config import BLOCK_PROPERTIES
from resnetlab.extension import OPTIMIZERS
from resnetlab.models.block_registry import BLOCKS

from conftest import ROOT

EXAMPLE = ROOT / "examples" / "my_block.py"


def test_it_is_short_and_uses_public_functions_only():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 60
    names = {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "resnetlab"
    }
    assert names <= set(resnetlab.__all__)
    assert "from resnetlab" not in text
    assert "resnetlab.models" not in text
    assert {"register_block", "register_optimizer", "study", "recipe"} <= names


@pytest.fixture
def example():
    """The example as a module whose names are removed again; no other process can import it."""
    spec = importlib.util.spec_from_file_location("my_block", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del BLOCKS["mine"], BLOCK_PROPERTIES["mine"], OPTIMIZERS._entries["nadam"]


def test_a_block_without_its_residual_function_can_still_learn(example):
    block = resnetlab.build_model("resnet8", block="mine", zero_init_residual=True).blocks[0].state_dict()
    assert block["factor"] == 0
    assert block["bn2.weight"].any()


def test_it_compares_five_seeds_and_saves_a_figure(example, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("resnetlab.study.reports.report.draw_figures", lambda runs, out: [])
    example.main(["--steps", "1", "--depth", "8", "--out", str(tmp_path / "s")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("mine minus plain, digits, 8 layers, test error: ")
    assert "over 5 seeds" in lines[0]
    assert lines[1].startswith("mine minus residual")
    with Image.open(tmp_path / "s" / "my-block.png") as image:
        assert image.width > 500
    study = resnetlab.Study(tmp_path / "s")
    assert len(study.runs) == 15
    assert {run.config.recipe.optimizer for run in study.runs} == {"nadam"}


@pytest.mark.slow
def test_it_runs_as_a_script_in_worker_processes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", EXAMPLE, "--steps", "2", "--depth", "8", "--out", "s"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "[15/15]" in done.stderr
    assert (tmp_path / "s" / "report.html").exists()
