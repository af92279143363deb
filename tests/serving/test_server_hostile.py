"""One server and what a hostile client can send, with memory, latency and the fate of other requests measured."""

import base64
import json
import signal
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from helpers.odd_images import encode, encode_as, noisy_image
from helpers.small_network import model_file

pytest.importorskip("fastapi")

from helpers.http_client import RunningServer, open_connection, problem_detail, read_response, run_server, wait_until

pytestmark = [pytest.mark.alone, pytest.mark.slow]

IMAGE = encode_as("png")
MAX_GROWTH_MIB = 64
MAX_HEALTH_MS = 200


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_file(tmp_path_factory.mktemp("model") / "model.safetensors")


@pytest.fixture(scope="module")
def server(model):
    """One server for all tests, because a start takes seconds. It must print nothing."""
    with run_server(model, "--timeout", 5) as running:
        yield running


def memory_mib(pid: int, name: str = "VmRSS") -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{name}:")[2].split()[0]) / 1024


class Watch:
    """Memory of a server, and the latency of `/healthz`, while others use it."""

    def __init__(self, server: RunningServer) -> None:
        self._server = server
        self.peak_mib = 0.0
        self.health_s: list[float] = []

    def measure(self, stop: threading.Event) -> None:
        with httpx.Client(base_url=self._server.url, timeout=60) as client:
            while not stop.is_set():
                self.peak_mib = max(self.peak_mib, memory_mib(self._server.process.pid))
                start = time.monotonic()
                assert client.get("/healthz").status_code == 200
                self.health_s.append(time.monotonic() - start)
                time.sleep(0.002)


@contextmanager
def watched(server: RunningServer) -> Iterator[Watch]:
    watch, stop = Watch(server), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(watch.measure, stop)
        try:
            yield watch
        finally:
            stop.set()
            running.result(60)


def send_raw(server: RunningServer, head: bytes, part: bytes, num_bytes: int) -> int:
    """Send a body of one repeated part, with its declared length; return the status (0: the connection was reset)."""
    with open_connection(server.port) as connection:
        fields = f"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: {num_bytes}"
        connection.sendall(f"POST /v1/predict/batch HTTP/1.1\r\n{fields}\r\n\r\n".encode() + head)
        block = part * ((1 << 18) // len(part))
        with suppress(OSError):
            for _ in range(max(0, num_bytes - len(head)) // len(block)):
                connection.sendall(block)
            connection.sendall(block[: (num_bytes - len(head)) % len(block)])
        try:
            return read_response(connection)[0]
        except (OSError, IndexError):
            return 0


BODIES = {
    "numbers": (b'{"images":[', b"1,"),
    "empty strings": (b'{"images":[', b'"",'),
    "nesting": (b'{"images":', b"["),
    "a long key": (b'{"', b"k"),
    "many keys": (b"{", b'"k":1,'),
    "a long number": (b'{"images":', b"9"),
    "spaces": (b"", b" "),
    "escapes": (b'{"images":["', rb"\u0041"),
    "base64 of zeros": (b'{"images":["', b"A"),
    "one image without end": (b'{"images":["' + base64.b64encode(IMAGE[:999]), b"AAAA"),
}


def test_json_bodies_take_little_memory_and_delay_no_other_request(server):
    """Bodies of 6, 20, 40 and 80 MB."""
    expected = [server.post(IMAGE).json()["label"]] * 2
    idle_mib = memory_mib(server.process.pid)
    text = base64.b64encode(IMAGE + bytes(15 << 20)).decode()  # the largest batch that is allowed
    largest = json.dumps({"images": [text, text]}).encode()  # before the watch, whose thread shares this interpreter
    with watched(server) as watch:
        for name, (head, part) in BODIES.items():
            for megabytes in (6, 20, 80) if name in ("numbers", "empty strings") else (40,):
                status = send_raw(server, head, part, megabytes * 1_000_000)
                assert status in (408, 413, 422), (name, megabytes, status)
        json_type = {"Content-Type": "application/json"}
        batch = server.http.post("/v1/predict/batch", content=largest, headers=json_type)
    assert batch.status_code == 200, batch.text
    assert [row["label"] for row in batch.json()["predictions"]] == expected
    growth_mib, latencies_ms = watch.peak_mib - idle_mib, sorted(1000 * latency for latency in watch.health_s)
    high_ms = latencies_ms[len(latencies_ms) * 99 // 100]
    print(
        f"growth {growth_mib:.1f} MiB; /healthz median {statistics.median(latencies_ms):.1f} ms, 99 % {high_ms:.0f} ms,"
    )
    print(f"largest {latencies_ms[-1]:.0f} ms, {len(latencies_ms)} requests")
    assert growth_mib < MAX_GROWTH_MIB
    assert high_ms < MAX_HEALTH_MS


def test_answers_are_bounded(server):
    """No part of a request comes back at length."""
    long = "k" * 1_000_000
    for body in ({long: 1}, {"images": [long]}, {"images": [f"data:{long}"]}, long):
        response = server.http.post("/v1/predict/batch", json=body)
        assert len(response.content) < 1000, response.text[:200]
    for path in ("/v1/predict?top=" + "9" * 30_000, "/" + "x" * 30_000, "/v1/predict?" + "&top=x" * 5000):
        assert len(server.http.post(path).content) < 1000
    fields = {"content-type": "x" * 30_000, "content-encoding": "y" * 20_000}
    for name, value in fields.items():
        response = server.http.post("/v1/predict/batch", content=b"{}", headers={name: value})
        assert len(problem_detail(response, 415)) < 300
    tiff = encode(noisy_image(), "TIFF", description="z" * 100_000)
    assert len(server.post(tiff[:-100]).content) < 1000


def single_colour_webp(side: int) -> bytes:
    """Return a lossless WebP of one colour in 28 bytes: five codes of one symbol each, and no bits for the pixels."""
    number = size = 0
    codes = [(1, 1), (0, 1), (0, 1), (0, 1)] * 5  # simple, one symbol, of one bit, which is 0
    for value, width in [(side - 1, 14), (side - 1, 14), (0, 1), (0, 3), (0, 1), (0, 1), (0, 1), *codes]:
        number |= value << size
        size += width
    pixels = b"\x2f" + number.to_bytes(7, "little")
    return b"RIFF" + struct.pack("<I", 20) + b"WEBPVP8L" + struct.pack("<I", len(pixels)) + pixels


def test_large_images_cost_others_nothing(server):
    """Images beyond the memory limit are rejected at once; those below it wait for each other only."""
    huge, large = single_colour_webp(9900), single_colour_webp(4600)
    assert len(huge) == 28
    with ThreadPoolExecutor(20) as pool:
        worker = server.worker_pid()
        idle_mib = memory_mib(worker)
        rejected = list(pool.map(server.post, [huge] * 8))
        assert {response.status_code for response in rejected} == {413}
        assert "9,900 x 9,900 pixels; decoding a WebP of that size may take" in problem_detail(rejected[0], 413)
        assert memory_mib(worker, "VmHWM") < idle_mib + 64
        slow = [pool.submit(server.post, large, explain=index % 2) for index in range(8)]
        end, statuses, latencies_s = time.monotonic() + 6, [], []
        while time.monotonic() < end:
            waiting, start = not all(response.done() for response in slow), time.monotonic()
            statuses.append(server.post(IMAGE).status_code)
            if waiting:
                latencies_s.append(time.monotonic() - start)
        median_s = statistics.median(latencies_s)
        print(f"{len(latencies_s)} others: latency median {median_s:.3f} s, largest {max(latencies_s):.2f} s", end="; ")
        outcomes = [response.result().status_code for response in slow]
        print(f"large ones {sorted(outcomes)}, worker +{memory_mib(worker, 'VmHWM') - idle_mib:.0f} MiB")
        assert set(statuses) == {200}
        assert 1000 * median_s < MAX_HEALTH_MS
        assert set(outcomes) <= {200, 503}
        assert server.worker_pid() == worker
        assert server.metric("resnetlab_worker_restarts_total") == 0
        assert memory_mib(worker, "VmHWM") < idle_mib + 768


def test_a_gif_of_ten_thousand_frames_is_one_image(server):
    data = encode(noisy_image(width=24, height=20), "GIF")
    start = data.index(b"\x2c", 13 + (3 << (data[10] & 7) + 1))
    frames = data[:start] + data[start:-1] * 10_000 + b";"
    start_s = time.monotonic()
    many, one = server.post(frames), server.post(data)
    assert many.json()["label"] == one.json()["label"]
    assert time.monotonic() - start_s < 3
    assert server.post(frames, explain=1).status_code == 200


def test_clients_that_leave_while_they_read_print_nothing(server):
    """Clients that send one or several requests, read little or nothing, and close or reset the connection."""
    page = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    image = (
        f"POST /v1/predict?explain=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(IMAGE)}\r\n\r\n".encode()
        + IMAGE
    )
    for requests in (page, page * 3, image + page, page + image, image * 2, page + b"words\r\n\r\n", image[:-9]):
        for reset in (True, False):
            for wait_s in (0, 0.02, 0.2):
                connection = socket.socket()
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                connection.connect(("127.0.0.1", server.port))
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", reset, 0))
                connection.sendall(requests)
                time.sleep(wait_s)
                connection.close()
    wait_until(lambda: server.metric("resnetlab_worker_images") == 0)
    assert server.post(IMAGE).status_code == 200  # the server's fixture checks that standard error is empty


def test_two_servers_on_one_model_and_sigterm_while_a_body_arrives(model, server):
    with run_server(model) as second:
        answers = [json.loads(each.post(IMAGE).content)["top"] for each in (server, second)]
        assert answers[0] == answers[1]
        with open_connection(second.port) as connection:
            fields = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 40000000"
            connection.sendall(f'POST /v1/predict/batch HTTP/1.1\r\n{fields}\r\n\r\n{{"images":["'.encode())
            connection.sendall(b"AAAA" * 100_000)
            second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(10) == 0
    assert server.post(IMAGE).status_code == 200
