"""Requests that a server accepts: one known host name, unambiguous framing, and pages of its own origin only."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import Scope

from resnetlab.config import ConfigError
from resnetlab.serving.errors import RequestError

ORIGIN = re.compile(r"https?://[a-z0-9._\[\]:-]+")
"""Scheme, host and optional port, without a path."""
SAME_SITE_VALUES = ("same-origin", "none")
"""Values of `Sec-Fetch-Site` for a request of the server's own page, and for one that no page caused."""
ANY = "*"
PREDICT_PREFIX = "/v1/predict"


@dataclass(frozen=True)
class RequestPolicy:
    """Host names and origins that a server accepts.

    Raises:
        ConfigError: If an origin is not a scheme, a host and optionally a port.
    """

    allowed_hosts: frozenset[str] | None = None
    """Names as `host_name` returns them, besides IP addresses; `None` for any."""
    allowed_origins: frozenset[str] = frozenset()
    """Origins of other web pages that may send images, such as `https://app.example`."""

    def __post_init__(self) -> None:
        for origin in self.allowed_origins:
            if not ORIGIN.fullmatch(origin):
                raise ConfigError(
                    f"allow-origin must be a scheme and a host such as https://app.example, not {origin[:80]!r}"
                )

    def rejection(self, scope: Scope) -> RequestError | None:
        """Return the error for a request that must not reach the application, otherwise `None`."""
        headers = Headers(scope=scope)
        return self._framing_error(scope, headers) or self._host_error(headers) or self._origin_error(scope, headers)

    def cors_headers(self, scope: Scope) -> Mapping[str, str]:
        """Return the response headers that let a page of an allowed origin read the response."""
        origin = Headers(scope=scope).get("origin", "").lower()
        if origin not in self.allowed_origins:
            return {}
        return {
            "access-control-allow-origin": Headers(scope=scope)["origin"],
            "access-control-allow-methods": "GET, HEAD, POST",
            "access-control-allow-headers": "content-type",
            "access-control-max-age": "3600",
            "cross-origin-resource-policy": "cross-origin",
        }

    def is_preflight(self, scope: Scope) -> bool:
        """Return whether a browser asks if a page of an allowed origin may send a request."""
        headers = Headers(scope=scope)
        return (
            scope["method"] == "OPTIONS"
            and "access-control-request-method" in headers
            and headers.get("origin", "").lower() in self.allowed_origins
        )

    def _framing_error(self, scope: Scope, headers: Headers) -> RequestError | None:
        """Return the error for headers that a proxy and this server may read differently."""
        hosts, codings = headers.getlist("host"), headers.getlist("transfer-encoding")
        reason = None
        if len(hosts) > 1:
            reason = "the request has more than one Host header"
        elif not hosts and scope["http_version"] not in ("1.0", "0.9"):
            reason = "the request has no Host header"
        elif codings and [coding.strip().lower() for coding in codings] != ["chunked"]:
            reason = f"transfer-encoding {', '.join(codings)[:40]!a} is not supported; send chunked, or a length"
        return None if reason is None else RequestError(400, reason, close=True)

    def _host_error(self, headers: Headers) -> RequestError | None:
        host = headers.get("host")
        if self.allowed_hosts is None or host is None or is_allowed_host(host, self.allowed_hosts):
            return None
        return RequestError(
            421,
            f"host {host_name(host)[:80]!r} is not allowed; to allow it, start the server with --allow-host",
            close=True,
        )

    def _origin_error(self, scope: Scope, headers: Headers) -> RequestError | None:
        """Return the error for an image that a page of another origin sends.

        `Sec-Fetch-Site` decides where the browser sends it: only the browser can set it, and behind a proxy the
        server's own origin is not known. Otherwise `Origin` must be that of the request.
        """
        if not scope["path"].startswith(PREDICT_PREFIX):
            return None
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if origin is not None and origin.lower() in self.allowed_origins:
            return None
        if site is not None:
            accepted = site in SAME_SITE_VALUES
        else:
            accepted = origin is None or origin.lower().partition("://")[2] == (headers.get("host") or "-").lower()
        if accepted:
            return None
        page = "another site" if origin is None else ascii(origin[:80])
        return RequestError(
            403,
            f"a web page of {page} may not send images here (cross-origin); to allow it, start the server with "
            "--allow-origin",
            close=True,
        )


def host_name(host: str) -> str:
    """Return the name in a `Host` header or an option: in lower case, without port and last dot."""
    name, colon, port = host.strip().rpartition(":")
    has_port = colon and (port.isdecimal() or not port) and (":" not in name or name.endswith("]"))  # or IPv6
    return (name if has_port else host.strip()).lower().rstrip(".")


def is_allowed_host(host: str, allowed_hosts: frozenset[str]) -> bool:
    """Return whether a `Host` header may be served.

    IP addresses are always allowed: DNS rebinding needs a name that it can bind to another address.
    """
    name = host_name(host)
    if name in allowed_hosts:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
