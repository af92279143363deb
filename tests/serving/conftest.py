"""One server for each file of tests, and its model."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from helpers.small_network import model_file
from resnetlab.inference.predictor import Predictor, load

if TYPE_CHECKING:
    from helpers.http_client import RunningServer


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model: Path) -> Predictor:
    return load(model)


@pytest.fixture(scope="module")
def server(model: Path) -> "Iterator[RunningServer]":
    from helpers.http_client import run_server  # needs the extra `serve`, without which these tests are skipped

    with run_server(model, "--max-mib", 1, "--max-batch-images", 4) as running:
        yield running
