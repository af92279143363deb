"""The server keeps to its OpenAPI document, for requests that keep to it and for those that do not (schemathesis)."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from helpers.odd_images import one
from helpers.small_network import model_file

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from helpers.http_client import Served, served
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.routes import KINDS
from resnetlab.serving.server import make_app
from resnetlab.serving.worker_supervisor import WorkerSupervisor

pytestmark = pytest.mark.slow

LIMITS, METERS = Limits(), ServerMetrics()
DOCUMENT = make_app(WorkerSupervisor({}, LIMITS, METERS), LIMITS, METERS).openapi()
BODIES = [one("png"), one("jpg"), one("webp"), one("jpg")[:300], b"words", b"", one("png") + bytes(1 << 20)]

for kind in KINDS:

    @schemathesis.serializer(kind)
    def as_it_is(context: Any, value: Any) -> bytes:
        return value if isinstance(value, bytes) else str(value).encode("utf-8", "replace")

    schemathesis.openapi.media_type(kind, st.sampled_from(BODIES))

api = schemathesis.openapi.from_dict(DOCUMENT)


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Served]:
    with served(model_file(tmp_path_factory.mktemp("model") / "model.safetensors"), "--max-mib", 1) as one_server:
        yield one_server


def test_the_document_is_the_servers(server):
    assert server.http.get("/openapi.json").json() == DOCUMENT


@api.parametrize()
@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
    derandomize=True,
)
def test_the_contract(case, server):
    # No schema says which bytes are an image: what one allows may still be refused.
    unknown = [positive_data_acceptance] if case.operation.path == "/v1/predict" else []
    case.call_and_validate(base_url=server.url, excluded_checks=unknown)


def test_good_and_bad_requests_were_among_them(server):
    for path in ("/v1/predict", "/v1/predict/batch"):
        for status in (200, 422):
            assert server.metric(f'resnetlab_requests_total{{path="{path}",status="{status}"}}') > 5
