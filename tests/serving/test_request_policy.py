"""`RequestPolicy` and the addresses that a server accepts: hosts, origins, path prefix, preflight requests."""

import asyncio
from typing import Any

import pytest

pytest.importorskip("fastapi")

from starlette.responses import PlainTextResponse

from resnetlab.config import ConfigError
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.middleware import RequestMiddleware
from resnetlab.serving.request_policy import RequestPolicy
from resnetlab.serving.server import ListenOptions, allowed_hosts, open_socket


def scope(method: str = "POST", path: str = "/v1/predict", **headers: str) -> dict[str, Any]:
    names = {"host": "server.example:8000", **headers}
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in names.items()]
    return {"type": "http", "http_version": "1.1", "method": method, "path": path, "headers": raw, "query_string": b""}


def status(policy: RequestPolicy, **headers: str) -> int:
    error = policy.rejection(scope(**headers))
    return 200 if error is None else error.status


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({"origin": "http://server.example:8000"}, 200),
        ({"origin": "https://server.example:8000"}, 200),  # a proxy with TLS
        ({"origin": "http://server.example"}, 403),
        ({"origin": "http://server.example:8001"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "null", "host": ""}, 403),
        ({"origin": "https://other.example", "sec_fetch_site": "same-origin"}, 200),  # a proxy that changes Host
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "anything"}, 403),
        ({"origin": "https://app.example", "sec_fetch_site": "cross-site"}, 200),
        ({"origin": "https://app.example"}, 200),
        ({"origin": "https://app.example.evil.example"}, 403),
        ({"origin": "http://app.example"}, 403),
    ],
)
def test_only_the_own_origin_and_allowed_ones_may_send_images(headers, expected):
    policy = RequestPolicy(allowed_origins=frozenset({"https://app.example"}))
    assert status(policy, **headers) == expected
    assert policy.rejection(scope("GET", "/healthz", **headers)) is None


@pytest.mark.parametrize(
    "origin", ["*", "app.example", "https://app.example/", "https://app.example/path", "ftp://a", ""]
)
def test_an_origin_must_be_scheme_and_host(origin):
    with pytest.raises(ConfigError, match="allow-origin must be"):
        RequestPolicy(allowed_origins=frozenset({origin}))


@pytest.mark.parametrize("root_path", ["resnet", "/resnet/", "/", "/a b", "/a\r\nb", "//a"])
def test_a_root_path_must_be_a_path(root_path):
    with pytest.raises(ConfigError, match="root-path must"):
        ListenOptions(root_path=root_path)


@pytest.mark.parametrize(
    ("host", "allowed", "accepted", "rejected"),
    [
        ("127.0.0.1", (), ["localhost:1", "127.0.0.1", "[::1]:80"], ["evil.example", "", "localhost.evil.example"]),
        ("0.0.0.0", (), ["localhost", "192.168.1.7:8000", "[fe80::1]"], ["evil.example", "7.evil.example"]),
        ("0.0.0.0", ("Cats.example",), ["cats.example", "CATS.EXAMPLE:8000", "10.0.0.1"], ["dogs.example"]),
        ("cats.example", (), ["cats.example"], ["dogs.example"]),
        ("0.0.0.0", ("App.example:8000",), ["app.example:8000", "app.example", "app.example.:9"], ["app.examples"]),
        ("0.0.0.0", ("app.example.",), ["app.example", "app.example.", "APP.example:"], ["8000", "app"]),
        ("Cats.example.", (), ["cats.example:80"], ["cats.example.evil.example"]),
        ("::", ("*",), ["anything.example"], []),
    ],
)
def test_names_that_could_be_bound_to_the_address_are_rejected(host, allowed, accepted, rejected):
    """DNS rebinding: a page of evil.example that binds its name to the server's address."""
    policy = RequestPolicy(allowed_hosts(ListenOptions(host=host, allow_hosts=allowed)))
    assert [status(policy, host=name) for name in accepted] == [200] * len(accepted)
    assert [status(policy, host=name) for name in rejected] == [421] * len(rejected)


def test_the_name_in_the_message_is_the_one_to_allow():
    for host in ("App.Example.:8000", "[x]:1", "a:b:1"):
        error = RequestPolicy(allowed_hosts(ListenOptions())).rejection(scope(host=host))
        assert error is not None
        name = error.detail.split("'")[1]
        assert status(RequestPolicy(allowed_hosts(ListenOptions(allow_hosts=(name,)))), host=host) == 200


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "no such host"])
def test_a_host_that_is_no_name(host):
    with pytest.raises(ConfigError, match=r"cannot listen on .* port 0 \(.+\); choose others with --host"):
        open_socket(ListenOptions(host=host, port=0))


def send(middleware: RequestMiddleware, request: dict[str, Any]) -> tuple[int, dict[str, str], bytes]:
    messages: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def collect(message: Any) -> None:
        messages.append(message)

    asyncio.run(middleware(request, receive, collect))
    headers = {name.decode(): value.decode() for name, value in messages[0]["headers"]}
    return messages[0]["status"], headers, b"".join(message.get("body", b"") for message in messages[1:])


async def echo(request: Any, receive: Any, reply: Any) -> None:
    await PlainTextResponse(f"{request['method']} {request['path']}")(request, receive, reply)


def middleware(root_path: str = "") -> RequestMiddleware:
    policy = RequestPolicy(allowed_origins=frozenset({"https://app.example"}))
    return RequestMiddleware(echo, ServerMetrics(), paths=(), policy=policy, root_path=root_path)


@pytest.mark.parametrize(
    ("path", "seen"),
    [
        ("/resnet/v1/model", b"GET /v1/model"),
        ("/v1/model", b"GET /v1/model"),
        ("/resnet/", b"GET /"),
        ("/resnets", b"GET /resnets"),
    ],
)
def test_the_path_prefix_may_be_removed_by_the_proxy_or_not(path, seen):
    assert send(middleware("/resnet"), scope("GET", path))[2] == seen


def test_the_prefix_without_a_slash_is_redirected():
    code, headers, _ = send(middleware("/resnet"), scope("GET", "/resnet"))
    assert (code, headers["location"]) == (308, "/resnet/")


def test_an_allowed_origin_may_read_the_response_and_ask_before():
    code, headers, body = send(middleware(), scope(origin="https://app.example"))
    assert (code, body) == (200, b"POST /v1/predict")
    assert headers["access-control-allow-origin"] == "https://app.example"
    assert headers["cross-origin-resource-policy"] == "cross-origin"
    assert "Origin" in headers["vary"]
    question = {"origin": "https://app.example", "access_control_request_method": "POST"}
    code, headers, body = send(middleware(), scope("OPTIONS", **question))
    assert (code, body) == (204, b"")
    assert "POST" in headers["access-control-allow-methods"]


def test_other_origins_get_no_permission():
    question = {"origin": "https://evil.example", "access_control_request_method": "POST"}
    for code, headers, _ in (
        send(middleware(), scope("OPTIONS", **question)),
        send(middleware(), scope("GET", "/v1/model", origin="https://evil.example")),
    ):
        assert code in (200, 403)
        assert not [name for name in headers if name.startswith("access-control")]
        assert headers["cross-origin-resource-policy"] == "same-origin"
