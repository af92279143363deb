"""An error names an option only if the command at hand has it."""

import importlib

import pytest

from helpers.images import write_tree
from resnetlab.cli.option_errors import option_types

DATA_COMMANDS = ("train", "study", "evaluate", "deepen", "diagnose", "doctor", "export", "data", "inspect")
"""Commands that open a data set."""
EVERYWHERE = ("on-bad-image", "data-root", "split-folders", "image-column", "label-column", "color-profiles")
"""Options that errors of data name, whatever the command."""
BATCH_COMMANDS = ("train", "doctor", "diagnose")
"""Commands whose batch may be larger than the training set; for a study the error names --set."""


@pytest.mark.parametrize("command", DATA_COMMANDS)
def test_commands_have_the_options_that_errors_of_data_name(command):
    names = option_types(importlib.import_module(f"resnetlab.cli.{command}").Options).keys()
    assert set(EVERYWHERE) <= names
    assert command not in BATCH_COMMANDS or "batch-size" in names


def test_the_advice_of_a_study_with_few_images_works(tmp_path, without_figures):
    """Two studies, each of a run in a process of its own: the advice is right only if it works."""
    data = write_tree(tmp_path / "data", {"a": 12, "b": 12})
    study = ["study", "--data", str(data), "--depths", "8", "--arms", "plain", "--seeds", "1", "--steps", "1"]
    study += ["--image-size", "8", "--no-identity-init", "--jobs", "1"]
    status, *output = without_figures(*study, "--out", tmp_path / "one")
    assert status == 1
    advice = (
        "128 is larger than the training set of 20 images; give a batch size of 20 or less (train: --batch-size 20, "
        "study: --set batch_size=20), or more images"
    )
    assert advice in "".join(output)
    assert without_figures(*study, "--out", tmp_path / "two", "--set", "batch_size=20")[0] == 0


def test_a_study_can_skip_bad_images(tmp_path, without_figures):
    data = write_tree(tmp_path / "data", {"a": 12, "b": 12})
    (data / "a" / "000.png").write_bytes(b"no image")
    study = ["study", "--data", str(data), "--depths", "8", "--arms", "plain", "--seeds", "1", "--steps", "1"]
    study += ["--image-size", "8", "--no-identity-init", "--jobs", "1", "--recipe", "digits"]
    status, *output = without_figures(*study, "--out", tmp_path / "one")
    assert status == 1
    assert "--on-bad-image skip" in "".join(output)
    assert without_figures(*study, "--out", tmp_path / "two", "--on-bad-image", "skip")[0] == 0
