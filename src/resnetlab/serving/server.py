"""A server from its first socket to its last answer: put together, run, and stopped without losing a request."""

import asyncio
import gc
import ipaddress
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from resnetlab import __version__
from resnetlab.config import ConfigError
from resnetlab.serving import errors, pages, routes
from resnetlab.serving.http_protocol import LimitedHttpProtocol
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.middleware import RequestMiddleware
from resnetlab.serving.request_body import RequestBodyReader
from resnetlab.serving.worker_supervisor import WorkerSupervisor

LEAST_BUDGET = 256 << 20
"""Bytes of bodies that may be held together, at least."""
KEEP_ALIVE_S = 30
"""Seconds that a connection may be idle between two requests."""
CLOSING_S = 5
"""Seconds for what is no work, such as a page that is being sent, once all work is done."""
LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]"})
"""Names of this machine for itself."""
ABOUT = "One ResNet over HTTP. Errors are problem details (RFC 9457): `detail` says what was wrong and what would work."

Log = Callable[[str], None]


@dataclass(frozen=True)
class ListenOptions:
    """Where a server listens, and as whom."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any that is free."""
    allow_hosts: tuple[str, ...] = ()
    """Names by which it may be asked for, beside its own."""


@dataclass(frozen=True)
class ServiceOptions:
    """What is served, and how much of it."""

    model: Path
    """A model file, a run directory or an exported file."""
    backend: str = "auto"
    cores: int | None = None
    """Threads of the network; all cores if not given."""
    limits: Limits = field(default_factory=Limits)


def serve(
    service: ServiceOptions,
    place: ListenOptions,
    *,
    ready: Callable[[str, dict[str, Any]], None],
    log: Log | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what has begun.

    `ready` is told the address, and what `/v1/model` says, when the first image could be answered; `log` one line a
    request.

    Raises:
        ConfigError: where nothing can listen there, or the model cannot be opened.
        RuntimeError: where the worker cannot be started otherwise.
    """
    with open_socket(place) as listener:
        host, port = listener.getsockname()[:2]
        address = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        server = Server(service, allowed_hosts(place), log)
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.live(listener, lambda model: ready(address, model)))


def open_socket(place: ListenOptions) -> socket.socket:
    """Open the socket.

    Raises:
        ConfigError: where that is not possible.
    """
    if not 0 <= place.port <= 65_535:
        raise ConfigError(f"port must be from 0 to 65535, not {place.port}")
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((place.host, place.port), family=family, backlog=2048)
    except OSError as error:  # of which `create_server` makes a long story, and name look-up an errno of its own
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(
            f"cannot listen on {place.host} port {place.port} ({reason}); choose others with --host and --port, "
            "0 for one that is free"
        ) from error
    # Connections inherit it. asyncio itself sets it by a field that such a socket lacks, and answers would wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def allowed_hosts(place: ListenOptions) -> frozenset[str] | None:
    """Return by which names a server may be asked for; `None` for any.

    On an address of this machine alone, no page elsewhere may reach it through a name that it binds to that address
    (DNS rebinding). On others it is meant to be reached, by whatever name, unless names are given.
    """
    names = frozenset(name.lower() for name in place.allow_hosts)
    if not names and not _is_local(place.host):
        return None
    return LOCAL | names | {place.host.lower()}


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Server(uvicorn.Server):
    """uvicorn's server with a worker beside it, which on a signal finishes what has begun before it stops."""

    def __init__(self, service: ServiceOptions, hosts: frozenset[str] | None, log: Log | None) -> None:
        """Put it together; nothing is started."""
        limits, meters = service.limits, ServerMetrics()
        settings = {
            "model": str(service.model),
            "backend": service.backend,
            "cores": service.cores,
            "max_batch": limits.max_batch,
            "max_wait_s": limits.max_wait_ms / 1000,
            "max_pixels": limits.max_megapixels * 1_000_000,
        }
        self.crew = WorkerSupervisor(settings, limits, meters)
        app = make_app(self.crew, limits, meters)
        self.gate = RequestMiddleware(app, meters, {*app.openapi()["paths"], "/", "/docs", "/openapi.json"}, hosts, log)
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # or anybody could fill the log
        super().__init__(
            uvicorn.Config(
                self.gate,
                http=LimitedHttpProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=CLOSING_S,
            )
        )

    async def live(self, listener: socket.socket, ready: Callable[[dict[str, Any]], None]) -> None:
        """Serve on a socket until a signal comes, or the worker cannot be started."""
        gc.freeze()  # what is there by now stays: later collections need not look at it
        crew = asyncio.create_task(self.crew.run(ready))
        serving = asyncio.create_task(self.serve([listener]))
        await asyncio.wait((crew, serving), return_when=asyncio.FIRST_COMPLETED)
        self.should_exit = True
        await serving
        crew.cancel()
        with suppress(asyncio.CancelledError):
            await crew

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at a second signal, stop at once."""
        if self.gate.draining:
            self.force_exit = self.should_exit = True
        self.gate.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Say whether it is time to stop."""
        if self.gate.draining and self.gate.in_flight == 0:
            self.should_exit = True
        return await super().on_tick(counter)


def make_app(crew: WorkerSupervisor, limits: Limits, meters: ServerMetrics) -> FastAPI:
    """Put the endpoints and the pages together."""
    app = FastAPI(
        title="resnetlab", version=__version__, description=ABOUT, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    intake = RequestBodyReader(limits.body_timeout_s, max(LEAST_BUDGET, 2 * limits.max_batch_bytes))
    app.include_router(routes.make_router(crew, intake, limits, meters))
    errors.install_error_handlers(app)
    pages.install_pages(app)
    return app
