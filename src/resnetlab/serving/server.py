"""The server: open the socket, build the application, run uvicorn and the worker, and drain requests on shutdown."""

import asyncio
import gc
import ipaddress
import logging
import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from resnetlab import __version__
from resnetlab.config import ConfigError, check
from resnetlab.serving.errors import install_error_handlers
from resnetlab.serving.http_protocol import LimitedHttpProtocol
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.middleware import RequestMiddleware
from resnetlab.serving.request_body import RequestBodyReader
from resnetlab.serving.request_policy import ANY, RequestPolicy, host_name
from resnetlab.serving.routes import make_router
from resnetlab.serving.web_page import install_pages
from resnetlab.serving.worker_supervisor import ModelInfo, WorkerSupervisor

MIN_BODY_BUDGET_BYTES = 256 << 20
"""Lower bound on the memory for all request bodies together."""
KEEP_ALIVE_S = 30
"""Seconds that a connection may be idle between two requests."""
GRACEFUL_SHUTDOWN_S = 5
"""Seconds for other responses, such as a page that is being sent, after all predict requests are finished."""
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
API_DESCRIPTION = (
    "One ResNet over HTTP. Errors are problem details (RFC 9457): `detail` has the reason and what would work."
)


@dataclass(frozen=True)
class ListenOptions:
    """Address of the server, and the host names that it accepts."""

    host: str = "127.0.0.1"
    port: int = 8000
    """0 for any free port."""
    allow_hosts: tuple[str, ...] = ()
    """Additional values of the `Host` header to accept; `*` for any."""
    allow_origins: tuple[str, ...] = ()
    """Origins of other web pages that may send images."""
    root_path: str = ""
    """Path under which a proxy publishes the server, such as `/resnet`."""

    def __post_init__(self) -> None:
        path = self.root_path
        check(
            not path or re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path) is not None,
            f"root-path must start with a slash and end without one, such as /resnet, not {path[:80]!r}",
        )

    @property
    def policy(self) -> RequestPolicy:
        """The requests to accept."""
        return RequestPolicy(allowed_hosts(self), frozenset(origin.lower() for origin in self.allow_origins))


@dataclass(frozen=True)
class ServiceOptions:
    """The model, the inference backend and the limits."""

    model: Path
    """A model file, a run directory or an exported file."""
    backend: str = "auto"
    cores: int | None = None
    """Threads for the network and for decoding; all cores if `None`."""
    reject_below: float | None = None
    """As for `Predictor`."""
    limits: Limits = field(default_factory=Limits)


def serve(
    service: ServiceOptions,
    listen: ListenOptions,
    *,
    on_ready: Callable[[str, ModelInfo], None],
    on_start: Callable[[], None] = lambda: None,
    log: Callable[[str], None] | None = None,
) -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests in flight, and return how many were answered.

    Args:
        service: The model and the limits.
        listen: The address.
        on_ready: Called with the server's URL and the content of `/v1/model` when the worker is ready.
        on_start: Called when the server listens and begins to load the model.
        log: Called with one line per request.

    Raises:
        ConfigError: If the server cannot listen on the address, or the model cannot be opened.
        RuntimeError: If the worker fails to start for another reason.
    """
    with open_socket(listen) as listener:
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}/"
        server = Server(service, listen, log)
        on_start()
        with asyncio.Runner(loop_factory=server.config.get_loop_factory()) as runner:
            runner.run(server.serve_with_worker(listener, lambda model_info: on_ready(url, model_info)))
        return server.metrics.num_answered


def open_socket(listen: ListenOptions) -> socket.socket:
    """Open the listening socket.

    Raises:
        ConfigError: If the port is out of range, or the address cannot be bound.
    """
    if not 0 <= listen.port <= 65_535:
        raise ConfigError(f"port must be from 0 to 65535, not {listen.port}")
    try:
        family = socket.getaddrinfo(listen.host, listen.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((listen.host, listen.port), family=family, backlog=2048)
    except (OSError, UnicodeError) as error:
        reason = "not a host name"  # that DNS can encode
        if isinstance(error, OSError):  # `create_server` makes its message long; name resolution: negative errno values
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror
        raise ConfigError(
            f"cannot listen on {listen.host} port {listen.port} ({reason}); choose others with --host and --port "
            "(--port 0: any free port)"
        ) from error
    # Connections inherit TCP_NODELAY. asyncio sets it itself only if `socket.proto` is TCP, which it is not for this
    # socket; without it, responses wait 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def allowed_hosts(listen: ListenOptions) -> frozenset[str] | None:
    """Return the host names that the server accepts, without ports; `None` for any.

    A web page could reach a server through a name that it binds to the server's address (DNS rebinding). So only
    `allow_hosts`, the name that was given to listen on, and the names of this machine are accepted besides addresses.
    """
    names = frozenset(map(host_name, listen.allow_hosts))
    if ANY in names:
        return None
    machine = host_name(socket.gethostname())
    own = set() if is_loopback(listen.host) else {machine, f"{machine}.local"}
    return LOOPBACK_HOSTS | names | own | {host_name(listen.host)}


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Server(uvicorn.Server):
    """uvicorn's server with a worker process; on a signal it drains requests before it stops."""

    def __init__(self, service: ServiceOptions, listen: ListenOptions, log: Callable[[str], None] | None) -> None:
        """Build the application and the worker's supervisor, without starting them."""
        limits, metrics = service.limits, ServerMetrics()
        self.metrics = metrics
        worker_settings = {
            "model": str(service.model),
            "backend": service.backend,
            "cores": service.cores,
            "reject_below": service.reject_below,
            "max_batch": limits.max_batch,
            "max_wait_s": limits.max_wait_ms / 1000,
            "max_pixels": limits.max_megapixels * 1_000_000,
            "max_decode_bytes": limits.max_decode_bytes,
            "large_decode_bytes": limits.large_decode_bytes,
        }
        self.supervisor = WorkerSupervisor(worker_settings, limits, metrics)
        app = make_app(self.supervisor, limits, metrics, listen.root_path)
        self.middleware = RequestMiddleware(
            app,
            metrics,
            paths={*app.openapi()["paths"], "/", "/docs", "/openapi.json"},
            policy=listen.policy,
            root_path=listen.root_path,
            log=log,
        )
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # uvicorn warns about each invalid request
        super().__init__(
            uvicorn.Config(
                self.middleware,
                http=LimitedHttpProtocol,
                ws="none",
                lifespan="off",  # `serve_with_worker` starts and stops the worker instead
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
            )
        )

    async def serve_with_worker(self, listener: socket.socket, on_ready: Callable[[ModelInfo], None]) -> None:
        """Serve on a socket until a signal arrives, or the worker fails to start.

        Raises:
            ConfigError, RuntimeError: As `WorkerSupervisor.run` does.
        """
        gc.freeze()  # objects that exist now live as long as the server: later collections can skip them
        worker = asyncio.create_task(self.supervisor.run(on_ready))
        serving = asyncio.create_task(self.serve([listener]))
        await asyncio.wait((worker, serving), return_when=asyncio.FIRST_COMPLETED)
        self.should_exit = True
        await serving
        worker.cancel()
        with suppress(asyncio.CancelledError):
            await worker

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start draining on the first signal; stop at once on the second."""
        if self.middleware.draining:
            self.force_exit = self.should_exit = True
        self.middleware.draining = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether to stop: uvicorn's condition, or all requests are drained."""
        if self.middleware.draining and self.middleware.in_flight == 0:
            self.should_exit = True
        return await super().on_tick(counter)


def make_app(supervisor: WorkerSupervisor, limits: Limits, metrics: ServerMetrics, root_path: str = "") -> FastAPI:
    """Return the FastAPI application: routes, error handlers and pages."""
    app = FastAPI(
        title="resnetlab",
        version=__version__,
        description=API_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        servers=[{"url": root_path}] if root_path else None,
    )
    body_reader = RequestBodyReader(limits.body_timeout_s, max(MIN_BODY_BUDGET_BYTES, 2 * limits.max_batch_bytes))
    app.include_router(make_router(supervisor, body_reader, limits=limits, metrics=metrics))
    install_error_handlers(app)
    install_pages(app)
    return app
