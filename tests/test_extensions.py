"""Packages that extend resnetlab through entry points: loaded when a name is unknown, and only then."""

import sys

import pytest

from resnetlab import extension
from resnetlab.cli.main import main
from resnetlab.config import BLOCK_PROPERTIES, ConfigError, ModelConfig
from resnetlab.extension import OPTIMIZERS
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.zoo import build_model, model_config
from resnetlab.study.arms import arm_network, known_arms
from resnetlab.training.recipes import RECIPES, recipe

MODULE = """
import resnetlab
from resnetlab.models.blocks import BasicBlock

class Their(BasicBlock):
    pass

def register():
    resnetlab.register_block("theirs", Their)
    resnetlab.register_recipe(resnetlab.Recipe("their-recipe", epochs=1, batch_size=32))
"""


@pytest.fixture
def install(tmp_path, monkeypatch):
    """A function that puts a package with one entry point on the path; its names are removed afterwards."""
    monkeypatch.setattr(extension, "_loaded", set())
    before = [(registry, set(registry)) for registry in (BLOCKS, BLOCK_PROPERTIES, RECIPES, OPTIMIZERS._entries)]

    def make(value="their_blocks:register", text=MODULE):
        (tmp_path / "their_blocks.py").write_text(text)
        info = tmp_path / "their_blocks-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-blocks\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{extension.GROUP}]\nblocks = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)

    yield make
    sys.modules.pop("their_blocks", None)
    for registry, names in before:
        for name in set(registry) - names:
            del registry[name]


def test_an_unknown_block_recipe_or_arm_loads_the_package(install):
    with pytest.raises(ConfigError, match="block 'theirs' is unknown"):
        ModelConfig(block="theirs")
    install()
    assert arm_network("theirs", 20).block == "theirs"
    assert type(build_model("resnet8-theirs").blocks[0]).__name__ == "Their"
    assert recipe("their-recipe").batch_size == 32
    assert known_arms()[-1] == "theirs"


@pytest.mark.parametrize(
    ("call", "known"),
    [
        (lambda: recipe("their-recipe"), True),
        (lambda: model_config("resnet8-theirs"), True),
        (lambda: OPTIMIZERS.check("their-recipe"), False),  # no such optimizer, in the package either
    ],
)
def test_each_registry_asks_the_packages(install, call, known):
    install()
    if known:
        call()
    else:
        with pytest.raises(ConfigError, match="optimizer 'their-recipe' is unknown"):
            call()
    assert "theirs" in BLOCKS


def test_known_names_load_nothing(install):
    install(text="raise RuntimeError('loaded')")
    assert arm_network("residual", 20).depth == 20
    assert recipe("digits").name == "digits"
    assert "their_blocks" not in sys.modules


def test_a_module_registers_when_it_is_imported(install):
    install(value="their_blocks", text=f"{MODULE}\nregister()\n")
    assert recipe("their-recipe").epochs == 1


def test_a_package_that_cannot_be_loaded_is_named(install, capsys):
    install(text="import nothing_like_this")
    assert main(["study", "--arms", "plain", "theirs"]) == 2
    assert capsys.readouterr().err == (
        "resnetlab: extension 'blocks' of the package their-blocks cannot be loaded (ModuleNotFoundError: No module "
        "named 'nothing_like_this'); repair or uninstall it\n"
    )


def test_the_command_line_uses_the_block(install, capsys):
    install()
    assert main(["models", "resnet8-theirs", "--json"]) == 0
    assert '"name": "resnet8-theirs"' in capsys.readouterr().out
