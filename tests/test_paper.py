"""The ledger's cells, and our networks beside the sizes the paper prints."""

import pytest

from resnetlab import paper
from resnetlab.models.cost import cost
from resnetlab.models.zoo import build_model


def test_no_cell_stands_twice():
    keys = [(cell.network, cell.quantity, cell.protocol) for cell in paper.LEDGER]
    assert len(keys) == len(set(keys))


def test_find():
    cell = paper.find("resnet110", "test_error_pct")
    assert cell is not None
    assert (cell.value, cell.where) == (6.43, "Table 6")
    assert paper.find("resnet110", "top1_error_pct") is None


@pytest.mark.parametrize("network", ["resnet20", "resnet56", "resnet110"])
def test_our_sizes_are_the_papers(network):
    published = paper.find(network, "params")
    assert published is not None
    assert cost(build_model(network), 32).params == pytest.approx(published.value, rel=0.03)
