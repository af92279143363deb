"""The server under faults: full queue, slow clients, workers that crash or hang, shutdown with requests in flight.

A paused worker (SIGSTOP) stands for a busy or hung one.
"""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from helpers.odd_images import encode, encode_as, noisy_image
from helpers.small_network import model_file

pytest.importorskip("fastapi")

from helpers.http_client import (
    RunningServer,
    open_connection,
    paused,
    problem_detail,
    read_response,
    run_server,
    wait_until,
)

IMAGE = encode_as("png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def send_images(pool: ThreadPoolExecutor, server: RunningServer, num_images: int) -> list[Future[httpx.Response]]:
    """Send some images concurrently, and return when the server has queued all of them."""

    def pending() -> float:
        return server.metric("resnetlab_worker_images") + server.metric("resnetlab_queue_images")

    before = pending()
    responses = [pool.submit(server.post, IMAGE) for _ in range(num_images)]
    wait_until(lambda: pending() == before + num_images)
    return responses


def request_head(*headers: str) -> bytes:
    return "\r\n".join(["POST /v1/predict HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()


def is_closed(connection: socket.socket, timeout_s: float) -> bool:
    """Return whether the server closes the connection within this time."""
    connection.settimeout(timeout_s)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.alone
@pytest.mark.slow
def test_full_queue_slow_clients_and_graceful_shutdown(model, pool):
    """One server for all of these, because a start takes seconds; the shutdown comes last."""
    options = ("--max-batch", 1, "--max-queue", 3, "--max-batch-images", 2, "--max-mib", 1, "--body-timeout", 0.5)
    with run_server(model, *options) as server:
        worker = server.worker_pid()
        with paused(worker):
            check_full_queue(pool, server)
        check_slow_body(server)
        check_chunked_body(server)
        check_disconnected_clients(server, worker)
        with paused(worker):
            check_graceful_shutdown(pool, server)
        assert server.process.wait(10) == 0
        wait_until(lambda: not Path(f"/proc/{worker}").exists())


def check_full_queue(pool: ThreadPoolExecutor, server: RunningServer) -> None:
    responses = send_images(pool, server, 5)  # two in the worker, three in the queue
    rejected = server.post(IMAGE)
    assert "the queue is full (3 of at most 3 images)" in problem_detail(rejected, 429)
    assert 1 <= int(rejected.headers["retry-after"]) <= 60
    assert server.http.get("/healthz").status_code == 200
    os.kill(server.worker_pid(), signal.SIGCONT)
    assert [response.result().status_code for response in responses] == [200] * 5
    assert server.post(IMAGE).status_code == 200


def check_slow_body(server: RunningServer) -> None:
    with open_connection(server.port) as connection:
        connection.sendall(request_head(f"Content-Length: {len(IMAGE)}") + IMAGE[:10])
        start = time.monotonic()
        status, headers, body = read_response(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert "within 0.5 s (10 bytes did)" in json.loads(body)["detail"]
        assert 0.4 < time.monotonic() - start < 5
        assert is_closed(connection, 10)  # the server waits up to five seconds for the rest


def check_chunked_body(server: RunningServer) -> None:
    """A chunked body without a length is rejected as soon as it exceeds the limit."""
    sent_bytes = 0
    with open_connection(server.port) as connection:
        connection.sendall(request_head("Transfer-Encoding: chunked"))
        connection.settimeout(0.001)
        while sent_bytes < 64 << 20:
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                connection.settimeout(30)
                connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                connection.settimeout(0.001)
                sent_bytes += 1 << 16
        connection.settimeout(30)
        status, _, body = read_response(connection)
    assert status == 413
    assert "more than 1 MiB" in json.loads(body)["detail"]
    assert 1 << 20 <= sent_bytes < 8 << 20


def check_disconnected_clients(server: RunningServer, worker: int) -> None:
    """Images of disconnected clients are removed from the queue."""
    before = server.metric('resnetlab_requests_total{path="/v1/predict",status="499"}')
    answered = server.metric('resnetlab_images_total{outcome="answered"}')
    with paused(worker):
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for connection in connections:
            connection.sendall(request_head(f"Content-Length: {len(IMAGE)}") + IMAGE)
        wait_until(lambda: server.metric("resnetlab_queue_images") == 3)
        for connection in connections:
            connection.close()
        wait_until(lambda: server.metric("resnetlab_queue_images") == 0)
        assert server.metric("resnetlab_worker_images") == 2  # sent before the clients disconnected
    wait_until(lambda: server.metric("resnetlab_worker_images") == 0)
    assert server.metric('resnetlab_requests_total{path="/v1/predict",status="499"}') == before + 5
    assert server.metric('resnetlab_images_total{outcome="answered"}') == answered + 2


def check_graceful_shutdown(pool: ThreadPoolExecutor, server: RunningServer) -> None:
    """After SIGTERM, requests in flight are finished, also queued ones, and new ones are rejected."""
    responses = send_images(pool, server, 3)
    os.kill(server.worker_pid(), signal.SIGTERM)  # systemd sends SIGTERM to all processes of a service
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: server.http.get("/readyz").status_code == 503)
    rejected = server.post(IMAGE)
    assert "shutting down" in problem_detail(rejected, 503)
    assert int(rejected.headers["retry-after"]) > 0
    assert "shutting down" in problem_detail(server.http.get("/readyz"), 503)
    assert server.http.get("/healthz").status_code == 200
    os.kill(server.worker_pid(), signal.SIGCONT)
    assert [response.result().status_code for response in responses] == [200] * 3


@pytest.mark.alone
@pytest.mark.slow
def test_a_killed_worker_fails_its_images_only(model, pool):
    with run_server(model, "--max-batch", 1, "--timeout", 30) as server:
        worker = server.worker_pid()
        with paused(worker):
            responses = send_images(pool, server, 4)
            os.kill(worker, signal.SIGKILL)
            wait_until(lambda: server.http.get("/readyz").status_code == 503)
            assert "killed by signal 9" in problem_detail(server.http.get("/readyz"), 503)
            assert server.http.get("/healthz").status_code == 200
            later_response = server.post(IMAGE)  # queued until the next worker is ready
        assert later_response.status_code == 200
        statuses = sorted(response.result().status_code for response in responses)
        assert statuses == [200, 200, 503, 503]
        failed = next(response.result() for response in responses if response.result().status_code == 503)
        assert "killed by signal 9 while it held this image" in problem_detail(failed, 503)
        assert failed.headers["retry-after"] == "1"
        assert server.http.get("/readyz").status_code == 200
        assert server.worker_pid() != worker
        assert server.metric("resnetlab_worker_restarts_total") == 1


@pytest.mark.alone
@pytest.mark.slow
def test_a_hung_worker_is_restarted(model):
    with run_server(model, "--timeout", 0.5, "--max-batch", 1) as server:
        worker = server.worker_pid()
        with paused(worker):
            start = time.monotonic()
            assert "no result within 0.5 s" in problem_detail(server.post(IMAGE), 503)
            assert 0.4 < time.monotonic() - start < 2
            wait_until(lambda: server.http.get("/readyz").status_code == 503)
            assert "hung" in problem_detail(server.http.get("/readyz"), 503)
        wait_until(lambda: server.http.get("/readyz").status_code == 200, 180)
        assert server.post(IMAGE).status_code == 200
        assert server.worker_pid() != worker


@pytest.mark.alone
@pytest.mark.slow
def test_a_model_that_cannot_be_reloaded(model, tmp_path):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(model.read_bytes())
    with run_server(copy) as server:
        copy.write_bytes(b"damaged")
        os.kill(server.worker_pid(), signal.SIGKILL)
        wait_until(lambda: "could not be reloaded" in server.http.get("/readyz").text, 180)
        rejected = server.post(IMAGE)
        assert "could not be reloaded" in problem_detail(rejected, 503)
        assert int(rejected.headers["retry-after"]) >= 1
        copy.write_bytes(model.read_bytes())
        wait_until(lambda: server.http.get("/readyz").status_code == 200, 180)
        assert server.post(IMAGE).status_code == 200


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_the_worker_exits_with_the_server(model, signum):
    with run_server(model) as server:
        worker = server.worker_pid()
        assert server.stop(signum) == (-9 if signum == signal.SIGKILL else 0)
        wait_until(lambda: not Path(f"/proc/{worker}").exists(), 10)


@pytest.mark.alone
@pytest.mark.slow
def test_sigterm_while_the_model_is_loading(model):
    """The server exits with status 0 and prints no error."""
    with run_server(model) as server:
        worker = server.worker_pid()
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: server.worker_pid() not in (worker, 0))
        assert server.stop() == 0


@pytest.mark.alone
@pytest.mark.slow
def test_connections_without_a_complete_request_are_closed(model):
    with run_server(model) as server:
        with open_connection(server.port) as silent, open_connection(server.port) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHo")
            assert server.http.get("/healthz").status_code == 200
            assert is_closed(silent, 20)
            assert is_closed(slow, 20)
        with open_connection(server.port) as oversized:
            with suppress(OSError):
                oversized.sendall(b"GET /healthz HTTP/1.1\r\n" + b"X-More: and more\r\n" * 10_000)
            assert is_closed(oversized, 5)
        connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(600)]
        assert read_response(connections[-1])[0] == 503
        for connection in connections:
            connection.close()
        wait_until(lambda: server.http.get("/healthz").status_code == 200)


@pytest.mark.alone
@pytest.mark.slow
def test_memory_does_not_grow(model, pool):
    """Compare before and after 3,000 requests of every kind, following a warm-up of 1,500."""
    bodies = [
        IMAGE,
        encode(noisy_image(width=1500, height=1200), "JPEG"),
        b"words",
        encode_as("jpg")[:500],
        encode(noisy_image("L"), "PNG"),
        bytes(3 << 20),
    ]

    def resident_mib(server: RunningServer) -> list[float]:
        processes = (server.process.pid, server.worker_pid())
        return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20 for pid in processes]

    with run_server(model, "--max-mib", 2, "--max-queue", 512) as server:

        def send(number: int) -> set[int]:
            return {response.status_code for response in pool.map(server.post, (bodies * number)[:number])}

        send(1500)
        before = resident_mib(server)
        assert send(3000) == {200, 413, 415, 422}
        after = resident_mib(server)
        assert after == pytest.approx(before, rel=0.05), (before, after)
        assert server.metric("resnetlab_worker_restarts_total") == 0
