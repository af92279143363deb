"""Requests as clients, pages of other origins and proxies send them: hosts, origins, forms, headers."""

import base64
import json
import time
from contextlib import suppress

import pytest

from helpers.odd_images import encode_as
from helpers.small_network import model_file

pytest.importorskip("fastapi")

from helpers.http_client import (
    open_connection,
    parse_prediction,
    problem_detail,
    read_response,
    run_server,
)
from resnetlab.inference.predictor import load


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def predictor(model):
    return load(model)


@pytest.fixture(scope="module")
def server(model):
    with run_server(model, "--max-mib", 1, "--max-batch-images", 4) as running:
        yield running


def test_other_host_names_are_rejected(server):
    for host in ("localhost", "127.0.0.1:1", "[::1]:80", "LOCALHOST.", "192.168.1.7"):
        assert server.http.get("/healthz", headers={"host": host}).status_code == 200, host
    for host in ("evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example"):
        assert "--allow-host" in problem_detail(server.http.get("/v1/model", headers={"host": host}), 421)


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
        {"sec-fetch-site": "same-site"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
    ],
)
def test_requests_of_other_origins_are_rejected(server, headers):
    for path in ("/v1/predict", "/v1/predict/batch"):
        response = server.http.post(path, content=encode_as("png"), headers=headers)
        assert "--allow-origin" in problem_detail(response, 403)
        assert not [name for name in response.headers if name.startswith("access-control")]
        assert server.http.options(path, headers=headers).status_code == 403


def test_requests_of_the_own_page_and_of_no_page_are_served(server):
    own = f"http://127.0.0.1:{server.port}"
    for headers in ({}, {"origin": own}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert server.http.post("/v1/predict", content=encode_as("png"), headers=headers).status_code == 200, headers


@pytest.mark.parametrize("kind", ["text/plain", "text/json", "application/octet-stream", "x" * 60_000])
def test_json_that_is_not_declared_as_json_is_rejected(server, kind):
    response = server.http.post("/v1/predict/batch", content=b'{"images":[]}', headers={"content-type": kind})
    detail = problem_detail(response, 415)
    assert "application/json" in detail
    assert len(detail) < 300


def test_curls_default_content_type_is_accepted_from_curl_only(server):
    text = base64.b64encode(encode_as("png")).decode()
    body, form = json.dumps({"images": [text]}), "application/x-www-form-urlencoded"
    for headers, status in (({}, 200), ({"origin": f"http://127.0.0.1:{server.port}"}, 415)):
        response = server.http.post("/v1/predict/batch", content=body, headers={"content-type": form, **headers})
        assert response.status_code == status


def test_base64_as_encoders_write_it(server, predictor):
    data = encode_as("jpg")
    texts = [
        base64.encodebytes(data).decode(),
        base64.urlsafe_b64encode(data).decode().rstrip("="),
        base64.b64encode(data).decode(),
    ]
    results = server.http.post("/v1/predict/batch", json={"images": texts}).json()["predictions"]
    assert [result["label"] for result in results] == [predictor(data).label] * 3


def test_a_form_with_files(server, predictor):
    data, jpeg = encode_as("png"), encode_as("jpg")
    label, _ = parse_prediction(server.http.post("/v1/predict", files={"anything": data}))
    assert label == predictor(data).label
    several = [("files", ("a.png", data)), ("files", ("b.jpg", jpeg)), ("other", ("c.txt", b"words"))]
    results = server.http.post("/v1/predict/batch", files=several).json()["predictions"]
    assert [result.get("label", result.get("status")) for result in results[1:]] == [
        predictor(jpeg).label,
        415,
    ]
    assert "/v1/predict/batch" in problem_detail(server.http.post("/v1/predict", files=several), 422)
    assert "the file in the form" in problem_detail(server.http.post("/v1/predict", files={"file": b"words"}), 415)
    too_large = {"file": encode_as("png") + bytes(1 << 20)}
    assert "more than 1,048,576" in problem_detail(server.http.post("/v1/predict", files=too_large), 413)


@pytest.mark.parametrize("path", ["/", "/docs", "/docs/start.js", "/openapi.json", "/healthz", "/readyz", "/v1/model"])
def test_head_is_get_without_the_body(server, path):
    head, get = server.http.head(path), server.http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "content-length"):
        assert head.headers[name] == get.headers[name]
    assert server.http.head("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ("Host: localhost\r\nHost: evil.example", "more than one Host"),
        ("Host: localhost\r\nHost: localhost", "more than one Host"),
        ("Accept: */*", "no Host"),
        ("Host: localhost\r\nTransfer-Encoding: gzip, chunked", "transfer-encoding"),
        ("Host: localhost\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "not valid HTTP"),
        ("Host: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", "not valid HTTP"),
        ("Host: localhost\r\nContent-Length: 5\r\nContent-Length: 6", "not valid HTTP"),
    ],
)
def test_ambiguous_requests_get_400(server, headers, reason):
    with open_connection(server.port) as connection:
        connection.sendall(f"POST /v1/predict HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        status, _, body = read_response(connection)
    assert status == 400
    assert reason in body.decode()


@pytest.mark.parametrize("parts", [1, 40])
def test_headers_beyond_the_limit_get_431(server, parts):
    """In one read or in many: what counts is their sum."""
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"X-More: and more\r\n" * 5000 + b"\r\n"
    with open_connection(server.port) as connection:
        for part in range(parts):
            with suppress(OSError):
                connection.sendall(head[part * len(head) // parts : (part + 1) * len(head) // parts])
            time.sleep(0.005 * (parts > 1))
        with suppress(ConnectionError):  # the server closes the connection while the client still sends
            response = connection.recv(1 << 16)
            assert response.startswith(b"HTTP/1.1 431 Request Header Fields Too Large") or not response
    assert server.http.get("/healthz").status_code == 200


def test_trailers_after_a_body_count_as_headers(server):
    head = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    with open_connection(server.port) as connection:
        with suppress(OSError):
            connection.sendall(head + b"X-More: and more\r\n" * 5000)
        connection.settimeout(10)
        with suppress(ConnectionError):
            while connection.recv(1 << 16):  # until the server closes the connection
                pass


def test_invalid_http_gets_400(server):
    with open_connection(server.port) as connection:
        connection.sendall(b"\x16\x03\x01 hello\r\n\r\n")
        assert read_response(connection)[0] == 400
    with open_connection(server.port) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert read_response(connection)[0] == 200


def test_pipelined_requests_on_one_connection(server, predictor):
    """The client sends the second request before it reads the first response."""
    images = [encode_as("png"), encode_as("jpg")]
    with open_connection(server.port) as connection:
        for data in images:
            head = f"POST /v1/predict?top=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
        with connection.makefile("rb") as file:
            for data in images:
                length = 0
                while header := file.readline().strip().lower():
                    if header.startswith(b"content-length:"):
                        length = int(header.split()[1])
                assert json.loads(file.read(length))["label"] == predictor(data).label
