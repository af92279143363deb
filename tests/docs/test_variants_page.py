"""The tables of docs/variants.md are those that the code gives, cover every variant, and name tests that exist."""

import re
import sys

from resnetlab.literature.later_networks import LATER_NETWORK_SIZES
from resnetlab.models.block_registry import BLOCKS
from resnetlab.models.zoo import VARIANTS

from conftest import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))
import variant_tables

PAGE = (ROOT / "docs" / "variants.md").read_text()


def test_blocks():
    assert "\n".join(variant_tables.block_rows()) in PAGE


def test_networks():
    """The page has them. Sizes against the publications are tested in tests/models/test_later_networks.py."""
    rows = {line.split("|")[1].strip(" `"): line for line in PAGE.splitlines() if line.startswith("| `")}
    for name, published in LATER_NETWORK_SIZES.items():
        assert published.source in rows[name]
        if published.params and "torchvision" in published.source:
            assert rows[name].count(f"{published.params:,}") == 2


def test_every_variant_is_on_the_page():
    assert [name for name in VARIANTS if f"`{name}`" not in PAGE] == []
    built_in = {"basic", "bottleneck"}
    assert set(variant_tables.BLOCK_TESTS) == {name for name, block in BLOCKS.items() if is_ours(block)} - built_in
    assert set(VARIANTS) - set(LATER_NETWORK_SIZES) == {"resnet101d"}  # no published size was found


def is_ours(block):
    """Whether the block is of the package, and not registered by a test."""
    return block.__module__.startswith("resnetlab.")


def test_the_named_tests_exist():
    named = re.findall(r"`([a-z_/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) == len(LATER_NETWORK_SIZES) + len(variant_tables.BLOCK_TESTS)
    for file, test in named:
        text = (ROOT / "tests" / "models" / file).read_text()
        assert f"def {test}" in text
