"""Redirects of a server: followed only on the host, port and scheme that the user named, and to allowed hosts."""

import os
from typing import Any

ALLOWED_HOSTS = "RESNETLAB_REDIRECT_HOSTS"
"""Environment variable with the hosts, separated by commas, to which servers may redirect."""


class RedirectError(OSError):
    """A redirect to another host, port or scheme; the message names it and the option that allows it."""


def redirect_options(url: str) -> dict[str, Any]:
    """Return the options of fsspec that refuse redirects elsewhere; none for a URL that is not of HTTP."""
    return {"get_client": _client} if url.startswith(("http://", "https://")) else {}


def check_redirect(before: Any, target: Any) -> None:
    """Raise unless a redirect stays where it is, or leads to an allowed host. Both are URLs of yarl.

    Raises:
        RedirectError: If it leads elsewhere.
    """
    allowed = {host.strip().lower() for host in os.environ.get(ALLOWED_HOSTS, "").split(",")} - {""}
    if target.origin() != before.origin() and (target.host or "").lower() not in allowed:
        raise RedirectError(
            f"its server redirects to {target.origin()}, which --data does not name; name it, or allow it with "
            f"{ALLOWED_HOSTS}={target.host}"
        )


async def _client(**options: Any) -> Any:
    """Return a session of aiohttp that checks each redirect before it is followed."""
    import aiohttp
    from yarl import URL

    async def on_redirect(session: Any, context: Any, params: Any) -> None:
        location = params.response.headers.get("Location") or params.response.headers.get("URI") or ""
        try:
            check_redirect(params.url, params.url.join(URL(location)))
        except ValueError as error:  # no URL, or one without a host
            params.response.close()
            raise RedirectError(f"its server redirects to {location[:200]!r}, which is no URL") from error
        except RedirectError:
            params.response.close()
            raise

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(on_redirect)
    return aiohttp.ClientSession(**{**options, "trace_configs": [*options.get("trace_configs", ()), trace]})
