"""The server matches its OpenAPI document, for valid and for invalid requests (schemathesis)."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from helpers.odd_images import encode_as
from helpers.small_network import model_file

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from helpers.http_client import RunningServer, run_server
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.routes import FORM, IMAGE_MEDIA_TYPES
from resnetlab.serving.server import make_app
from resnetlab.serving.worker_supervisor import WorkerSupervisor

# alone: schemathesis gives the tests of all operations one name, and pytest-xdist runs one test of a name
pytestmark = [pytest.mark.slow, pytest.mark.alone]

LIMITS, METRICS = Limits(), ServerMetrics()
DOCUMENT = make_app(WorkerSupervisor({}, LIMITS, METRICS), LIMITS, METRICS).openapi()
BODIES = [
    encode_as("png"),
    encode_as("jpg"),
    encode_as("webp"),
    encode_as("jpg")[:300],
    b"words",
    b"",
    encode_as("png") + bytes(1 << 20),
]

for media_type in IMAGE_MEDIA_TYPES:

    @schemathesis.serializer(media_type)
    def send_unchanged(context: Any, value: Any) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")

    schemathesis.openapi.media_type(media_type, st.sampled_from(BODIES))

api = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[RunningServer]:
    with run_server(model_file(tmp_path_factory.mktemp("model") / "model.safetensors"), "--max-mib", 1) as running:
        yield running


def test_the_server_returns_the_document(server):
    assert server.http.get("/openapi.json").json() == DOCUMENT


@api.parametrize()
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
def test_responses_match_the_document(case, server):
    # A schema cannot describe which bytes are an image, so a body that it allows may still be rejected.
    excluded: list[Any] = [positive_data_acceptance] if case.operation.path == "/v1/predict" else []
    response = case.call(base_url=server.url)
    if case.media_type == FORM:  # parts are bytes, whatever their type: each that is no image has its own error
        excluded.append(negative_data_rejection)
    if response.status_code == 413:  # more images or bytes than the limits allow: rejected, though not with 422
        excluded.append(negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)


def test_valid_and_invalid_requests_were_generated(server):
    for path in ("/v1/predict", "/v1/predict/batch"):
        for status in (200, 422):
            assert server.metric(f'resnetlab_requests_total{{path="{path}",status="{status}"}}') > 5
