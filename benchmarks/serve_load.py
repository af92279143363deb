"""How a server stands load: from a second process on this machine, over loopback, against its own parts.

1. One client: p50 of a request over p50 of decoding and network alone (`alone`), by turns, medians of the ratios.
2. 32 clients: images a second over the backend's own at full batches (`Engine.logits`), by turns.
3. Four times what (2) reached is offered for a minute, whether it is answered or not: which statuses come back; memory
   of the server's processes; p99 of the accepted, whose bound is 1.5 times all that may stand before an image (the
   queue, which is always full, and what the worker has) over the images a second that were answered meanwhile; and
   when one client's p50 is back, from the last request of the overload on.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --model resnet50.safetensors --backend openvino --turns 5

Without `--model` it is a ResNet-50 with random weights. Exits with 1 where a bound is missed. On a busy machine every
figure is worse.
"""

import argparse
import asyncio
import http.client
import json
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from load_client import Client, Tally, post
from parts_alone import batches_alone, one_alone, open_alone
from resnetlab.config import Preprocessing
from resnetlab.models.model_file import ModelCard, save_model
from resnetlab.models.zoo import build_model
from resnetlab.serving.limits import Limits
from resnetlab.system.cores import usable_cores

PICTURES = Path(__file__).parents[2] / "shared/data/imagenette224-sample/val"
ONE_CLIENT, MANY_CLIENTS, MEMORY, RECOVERY_S = 1.15, 0.90, 0.05, 5
"""Bounds: of a ratio of times, of a ratio of speeds, of memory about its median, of recovery in seconds."""
UNEVEN = 1.5
"""Times the mean wait behind a full queue that the slowest hundredth may wait: speed is not even."""
CLIENTS = 32
OVERLOAD = 4
"""Times the capacity."""
WARM_S = 10
"""Seconds of overload after which memory must be flat: by then every buffer has been filled once."""


@dataclass
class Line:
    """A line of the table."""

    what: str
    found: str
    bound: str = ""
    kept: bool = True


# ---- the server


class Served:
    """A server that runs."""

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        found = re.search(r":(\d+)/$", said)
        if found is None:
            sys.exit(f"the server did not start: {said}")
        self.process = process
        self.port = int(found[1])

    def memory(self) -> float:
        """Return MiB of it and all processes below it, resident."""
        waiting, total = [self.process.pid], 0
        while waiting:
            pid = waiting.pop()
            try:
                waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:  # it has just ended
                continue
            total += int(status.partition("VmRSS:")[2].split()[0])
        return total / 1024

    def ask(self, path: str) -> dict:
        """Return an answer in JSON."""
        line = http.client.HTTPConnection("127.0.0.1", self.port)
        line.request("GET", path)
        found = json.load(line.getresponse())
        line.close()
        return found


@contextmanager
def served(model: Path, backend: str) -> Iterator[Served]:
    """Serve a model on a free port of this machine."""
    words = [sys.executable, "-m", "resnetlab", "serve", str(model), "--backend", backend, "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield Served(process, process.stdout.readline().strip())
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)


# ---- the measurements


async def measure(server: Served, alone: ProcessPoolExecutor, options: argparse.Namespace) -> list[Line]:
    """Return the table."""
    pictures = [path.read_bytes() for path in sorted(options.images.rglob("*.*"))[:100]]
    requests = [post("/v1/predict", server.port, picture) for picture in pictures]
    client = Client(server.port, requests)
    try:
        turns = [await turn(client, alone, pictures, options.seconds) for _ in range(options.turns + 1)][1:]
        one_s = statistics.median(turn.one_s for turn in turns)
        capacity = statistics.median(turn.many.per_second for turn in turns)
        lines = quiet(turns)
        tally, memory, after = await overload(server, client, OVERLOAD * capacity, options.overload_seconds)
        lines += overloaded(tally, memory)
        return [*lines, recovered(after, one_s)]
    finally:
        client.close()


@dataclass
class Turn:
    """What was seen in one turn: the server with one client and with 32, and its parts alone."""

    one_s: float
    one_alone_s: float
    many: Tally
    batches_per_s: float


async def turn(client: Client, alone: ProcessPoolExecutor, pictures: list[bytes], seconds: float) -> Turn:
    """Measure each side once; while one is measured the other rests."""
    one_alone_s = alone.submit(one_alone, pictures, seconds).result()
    one = await client.one_after_another(1, seconds)
    batches_per_s = alone.submit(batches_alone, pictures, Limits().max_batch, seconds).result()
    many = await client.one_after_another(CLIENTS, seconds)
    refused = (one.statuses | many.statuses).keys() - {"200"}
    if refused:
        sys.exit(
            f"{CLIENTS} clients were answered with {', '.join(sorted(refused))}; a queue of {CLIENTS} must hold them"
        )
    return Turn(statistics.median(one.latencies), one_alone_s, many, batches_per_s)


def quiet(turns: list[Turn]) -> list[Line]:
    """Return the lines of (1) and (2)."""
    middle = statistics.median
    one, alone = (1000 * middle(getattr(turn, name) for turn in turns) for name in ("one_s", "one_alone_s"))
    ratio = middle(turn.one_s / turn.one_alone_s for turn in turns)
    many, own = middle(turn.many.per_second for turn in turns), middle(turn.batches_per_s for turn in turns)
    share = middle(turn.many.per_second / turn.batches_per_s for turn in turns)
    p99 = 1000 * middle(quantile(turn.many, 0.99) for turn in turns)
    load = middle(turn.many.client_s / turn.many.seconds for turn in turns)
    return [
        Line("one client, p50; decoding + network alone", f"{one:.2f} ms; {alone:.2f}"),
        Line("  their ratio", f"{ratio:.3f}", f"<= {ONE_CLIENT}", ratio <= ONE_CLIENT),
        Line(f"{CLIENTS} clients; network alone, full batches", f"{many:.1f}/s; {own:.1f}"),
        Line("  their ratio", f"{share:.3f}", f">= {MANY_CLIENTS}", share >= MANY_CLIENTS),
        Line("  p99; the client's share of a core", f"{p99:.0f} ms; {load:.0%}"),
    ]


async def overload(server: Served, client: Client, rate: float, seconds: float) -> tuple[Tally, list[float], Tally]:
    """Offer too much, then be one client again; return what came back, MiB each half second, and what came after."""
    memory, loading = [], asyncio.create_task(client.at_rate(rate, seconds))
    for _ in range(round(2 * seconds)):
        await asyncio.sleep(0.5)
        memory.append(server.memory())
    single = Client(server.port, list(client.requests))
    after = await single.one_after_another(1, 2 * RECOVERY_S)
    single.close()
    return await loading, memory, after


def overloaded(tally: Tally, memory: list[float]) -> list[Line]:
    """Return the lines of (3) while it lasts."""
    limits = Limits()
    sent = ", ".join(f"{status}: {count:,}" for status, count in sorted(tally.statuses.items()))
    strange = tally.statuses.keys() - {"200", "429", "503"}
    settled = memory[2 * WARM_S :] or memory
    level = statistics.median(settled)
    spread = max(abs(one / level - 1) for one in settled)
    ahead = limits.max_queue + limits.window
    bound, p99 = UNEVEN * ahead / tally.per_second, quantile(tally, 0.99)
    return [
        Line(f"{OVERLOAD} times that offered, {tally.seconds:.0f} s", f"{tally.offered:.0f}/s"),
        Line(f"  {sent}", "", "no other", not strange),
        Line(
            "  answered; the client's share of a core",
            f"{tally.per_second:.1f}/s; {tally.client_s / tally.seconds:.0%}",
        ),
        Line(f"  memory after {WARM_S} s, front and worker", f"{level:.0f} MiB"),
        Line("  furthest from it", f"{spread:.1%}", f"<= {MEMORY:.0%}", spread <= MEMORY),
        Line("  p50 of the accepted", f"{quantile(tally, 0.5):.2f} s"),
        Line(
            f"  p99; bound: {UNEVEN} x {ahead} images at that speed", f"{p99:.2f} s", f"<= {bound:.2f} s", p99 <= bound
        ),
    ]


def recovered(after: Tally, before_s: float) -> Line:
    """Return the line of (3) when it is over: the first second whose p50, and that of all later ones, is as before."""
    times = [(due - after.began, latency) for due, latency in after.accepted]
    back = None
    for second in range(2 * RECOVERY_S):
        this = [latency for at, latency in times if second <= at < second + 1]
        later = [latency for at, latency in times if at >= second]
        if this and max(statistics.median(this), statistics.median(later)) <= ONE_CLIENT * before_s:
            back = second
            break
    found = f"not in {2 * RECOVERY_S} s" if back is None else f"{back} s"
    kept = back is not None and back <= RECOVERY_S
    return Line(f"  one client's p50 is back (x {ONE_CLIENT}) after", found, f"<= {RECOVERY_S} s", kept)


def quantile(tally: Tally, share: float) -> float:
    """Return the latency in seconds that a share of the accepted keep below."""
    ordered = tally.latencies
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# ---- putting it together


def main() -> int:
    """Measure and print; return 1 where a bound is missed."""
    parser = argparse.ArgumentParser(description="load a server on this machine, and compare it with its parts")
    parser.add_argument("--model", type=Path, help="what to serve; a ResNet-50 with random weights if not given")
    parser.add_argument("--backend", default="auto", help="as for `resnetlab serve`")
    parser.add_argument("--images", type=Path, default=PICTURES, help="a folder of pictures, at any depth")
    parser.add_argument("--turns", type=int, default=5, help="how often each side is measured")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--overload-seconds", type=float, default=60)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    if not any(options.images.rglob("*.*")):
        sys.exit(f"{options.images}: no pictures; name a folder of some with --images")
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_network(Path(folder) / "resnet50.safetensors")
        with served(model, options.backend) as server:
            what = server.ask("/v1/model")
            own = (model, options.backend, f"{what['backend']} {what['precision']}")
            with ProcessPoolExecutor(1, get_context("spawn"), open_alone, own) as alone:
                lines = asyncio.run(measure(server, alone, options))
    show(what, lines, as_json=options.json)
    return int(not all(line.kept for line in lines))


def random_network(path: Path) -> Path:
    """Save a ResNet-50 that has learnt nothing: its speed is that of any other."""
    network = build_model("resnet50", 10)
    seen = Preprocessing(224, (0.48, 0.46, 0.41), (0.23, 0.22, 0.22), crop_ratio=0.875)
    save_model(path, network, ModelCard(network.config, tuple("0123456789"), seen))
    return path


def show(what: dict, lines: list[Line], *, as_json: bool) -> None:
    """Print the table, 80 columns wide, or JSON."""
    served_by = f"{what['name']} at {what['image_size']}, {what['backend']} {what['precision']}"
    machine = f"{usable_cores()} cores, Python {platform.python_version()}, Linux {platform.release()}"
    if as_json:
        print(json.dumps({"served": served_by, "machine": machine, "lines": [vars(line) for line in lines]}))
        return
    print(f"{served_by}; {machine}")
    for line in lines:
        missed = "" if line.kept else " MISSED"
        print(f"{line.what:<45}{line.found:>16}  {line.bound}{missed}".rstrip())


if __name__ == "__main__":
    sys.exit(main())
