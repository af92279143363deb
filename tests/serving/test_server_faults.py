"""What happens to a server on bad days: full, slow clients, workers that die or hang, an end in the middle of work.

A worker that is stopped (SIGSTOP) stands for one that is busy for as long as the test likes.
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

from helpers.odd_images import one, picture, saved
from helpers.small_network import model_file

pytest.importorskip("fastapi")

from helpers.http_client import Served, heard, line, problem, served, stopped, until

IMAGE = one("png")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as threads:
        yield threads


def asked(pool: ThreadPoolExecutor, server: Served, images: int) -> list[Future[httpx.Response]]:
    """Ask about some images at once, and return when all have reached the server."""
    before = server.metric("resnetlab_worker_images") + server.metric("resnetlab_queue_images")
    answers = [pool.submit(server.post, IMAGE) for _ in range(images)]
    until(lambda: server.metric("resnetlab_worker_images") + server.metric("resnetlab_queue_images") == before + images)
    return answers


def head(*lines: str) -> bytes:
    return "\r\n".join(["POST /v1/predict HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def closed(connection: socket.socket, within_s: float) -> bool:
    """Say whether the other side closes the connection soon."""
    connection.settimeout(within_s)
    try:
        while connection.recv(1 << 16):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.slow
def test_a_full_queue_slow_clients_and_an_end_in_the_middle_of_work(model, pool):
    """One server after the other would take long: what leaves it whole comes first, its end last."""
    words = ("--max-batch", 1, "--max-queue", 3, "--max-batch-images", 2, "--max-mib", 1, "--body-timeout-s", 0.5)
    with served(model, *words) as server:
        worker = server.worker()
        with stopped(worker):
            full_queue(pool, server)
        slow_body(server)
        endless_body(server)
        client_that_leaves(server, worker)
        with stopped(worker):
            end_in_the_middle(pool, server)
        assert server.process.wait(10) == 0
        until(lambda: not Path(f"/proc/{worker}").exists())


def full_queue(pool: ThreadPoolExecutor, server: Served) -> None:
    answers = asked(pool, server, 5)  # two with the worker, three wait
    refused = server.post(IMAGE)
    assert "3 images wait already" in problem(refused, 429)
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert server.http.get("/healthz").status_code == 200
    os.kill(server.worker(), signal.SIGCONT)
    assert [answer.result().status_code for answer in answers] == [200] * 5
    assert server.post(IMAGE).status_code == 200


def slow_body(server: Served) -> None:
    with line(server.port) as connection:
        connection.sendall(head(f"Content-Length: {len(IMAGE)}") + IMAGE[:10])
        begun = time.monotonic()
        status, headers, body = heard(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert "within 0.5 s (10 bytes did)" in json.loads(body)["detail"]
        assert 0.4 < time.monotonic() - begun < 5
        assert closed(connection, 5)


def endless_body(server: Served) -> None:
    """A body in chunks, which does not say how long it is, is refused long before its end."""
    sent = 0
    with line(server.port) as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        connection.settimeout(0.001)
        while sent < 64 << 20:
            try:
                if connection.recv(1, socket.MSG_PEEK):
                    break
            except TimeoutError:
                connection.settimeout(30)
                connection.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                connection.settimeout(0.001)
                sent += 1 << 16
        connection.settimeout(30)
        status, _, body = heard(connection)
    assert status == 413
    assert "more than 1 MiB" in json.loads(body)["detail"]
    assert 1 << 20 <= sent < 8 << 20


def client_that_leaves(server: Served, worker: int) -> None:
    """It is dropped from the queue; nobody waits behind it."""
    before = server.metric('resnetlab_requests_total{path="/v1/predict",status="499"}')
    answered = server.metric('resnetlab_images_total{outcome="answered"}')
    with stopped(worker):
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(5)]
        for connection in lines:
            connection.sendall(head(f"Content-Length: {len(IMAGE)}") + IMAGE)
        until(lambda: server.metric("resnetlab_queue_images") == 3)
        for connection in lines:
            connection.close()
        until(lambda: server.metric("resnetlab_queue_images") == 0)
        assert server.metric("resnetlab_worker_images") == 2  # which it has already
    until(lambda: server.metric("resnetlab_worker_images") == 0)
    assert server.metric('resnetlab_requests_total{path="/v1/predict",status="499"}') == before + 5
    assert server.metric('resnetlab_images_total{outcome="answered"}') == answered + 2


def end_in_the_middle(pool: ThreadPoolExecutor, server: Served) -> None:
    """SIGTERM: what has begun is answered, also where it waits, and what comes is told to go elsewhere."""
    answers = asked(pool, server, 3)
    os.kill(server.worker(), signal.SIGTERM)  # as systemd does with a whole group
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.http.get("/readyz").status_code == 503)
    refused = server.post(IMAGE)
    assert "stopping" in problem(refused, 503)
    assert int(refused.headers["retry-after"]) > 0
    assert "stopping" in problem(server.http.get("/readyz"), 503)
    assert server.http.get("/healthz").status_code == 200
    os.kill(server.worker(), signal.SIGCONT)
    assert [answer.result().status_code for answer in answers] == [200] * 3


@pytest.mark.slow
def test_a_worker_that_is_killed_loses_its_images_and_no_others(model, pool):
    with served(model, "--max-batch", 1, "--timeout-s", 30) as server:
        worker = server.worker()
        with stopped(worker):
            answers = asked(pool, server, 4)
            os.kill(worker, signal.SIGKILL)
            until(lambda: server.http.get("/readyz").status_code == 503)
            assert "killed by signal 9" in problem(server.http.get("/readyz"), 503)
            assert server.http.get("/healthz").status_code == 200
            following = server.post(IMAGE)  # waits for the next worker
        assert following.status_code == 200
        statuses = sorted(answer.result().status_code for answer in answers)
        assert statuses == [200, 200, 503, 503]
        lost = next(answer.result() for answer in answers if answer.result().status_code == 503)
        assert "killed by signal 9 while it had this image" in problem(lost, 503)
        assert lost.headers["retry-after"] == "1"
        assert server.http.get("/readyz").status_code == 200
        assert server.worker() != worker
        assert server.metric("resnetlab_worker_restarts_total") == 1


@pytest.mark.slow
def test_a_worker_that_hangs_is_replaced(model):
    with served(model, "--timeout-s", 0.5, "--max-batch", 1) as server:
        worker = server.worker()
        with stopped(worker):
            begun = time.monotonic()
            assert "no answer within 0.5 s" in problem(server.post(IMAGE), 503)
            assert 0.4 < time.monotonic() - begun < 2
            until(lambda: server.http.get("/readyz").status_code == 503)
            assert "hung" in problem(server.http.get("/readyz"), 503)
        until(lambda: server.http.get("/readyz").status_code == 200)
        assert server.post(IMAGE).status_code == 200
        assert server.worker() != worker


@pytest.mark.slow
def test_a_network_that_cannot_be_loaded_again(model, tmp_path):
    copy = tmp_path / "model.safetensors"
    copy.write_bytes(model.read_bytes())
    with served(copy) as server:
        copy.write_bytes(b"damaged")
        os.kill(server.worker(), signal.SIGKILL)
        until(lambda: "cannot be loaded again" in server.http.get("/readyz").text, 60)
        refused = server.post(IMAGE)
        assert "cannot be loaded again" in problem(refused, 503)
        assert int(refused.headers["retry-after"]) >= 1
        copy.write_bytes(model.read_bytes())
        until(lambda: server.http.get("/readyz").status_code == 200, 60)
        assert server.post(IMAGE).status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_server(model, signum):
    with served(model) as server:
        worker = server.worker()
        assert server.end(signum) == (-9 if signum == signal.SIGKILL else 0)
        until(lambda: not Path(f"/proc/{worker}").exists(), 10)


@pytest.mark.slow
def test_an_end_while_the_network_is_loaded(model):
    """Nothing is printed yet, and nothing is left behind."""
    with served(model) as server:
        worker = server.worker()
        os.kill(worker, signal.SIGKILL)
        until(lambda: server.worker() not in (worker, 0))
        assert server.end() == 0


@pytest.mark.slow
def test_connections_that_never_get_to_the_point_are_closed(model):
    with served(model) as server:
        with line(server.port) as silent, line(server.port) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHo")
            assert server.http.get("/healthz").status_code == 200
            assert closed(silent, 20)
            assert closed(slow, 20)
        with line(server.port) as endless:
            with suppress(OSError):
                endless.sendall(b"GET /healthz HTTP/1.1\r\n" + b"X-More: and more\r\n" * 10_000)
            assert closed(endless, 5)
        lines = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(600)]
        assert heard(lines[-1])[0] == 503
        for connection in lines:
            connection.close()
        until(lambda: server.http.get("/healthz").status_code == 200)


@pytest.mark.slow
def test_memory_stays_flat(model, pool):
    """Some thousand requests of every kind, after as many that warm up."""
    kinds = [
        IMAGE,
        saved(picture(width=1500, height=1200), "JPEG"),
        b"words",
        one("jpg")[:500],
        saved(picture("L"), "PNG"),
        bytes(3 << 20),
    ]

    def resident_mib(server: Served) -> list[float]:
        processes = (server.process.pid, server.worker())
        return [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20 for pid in processes]

    with served(model, "--max-mib", 2, "--max-queue", 512) as server:

        def many(number: int) -> set[int]:
            return {answer.status_code for answer in pool.map(server.post, (kinds * number)[:number])}

        many(1500)
        before = resident_mib(server)
        assert many(3000) == {200, 413, 415, 422}
        after = resident_mib(server)
        assert after == pytest.approx(before, rel=0.05), (before, after)
        assert server.metric("resnetlab_worker_restarts_total") == 0
