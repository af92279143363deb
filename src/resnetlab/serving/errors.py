"""Error responses as problem details (RFC 9457), and the exception handlers that make them."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

PROBLEM_MEDIA_TYPE = "application/problem+json"
STATUS_TITLES = {413: "Content Too Large", 421: "Misdirected Request", 422: "Unprocessable Content"}
"""The names of RFC 9110; Python before 3.13 has older ones."""
CLIENT_CLOSED_REQUEST = 499
"""Never sent; the metrics count it for a client that disconnected before its response (nginx's number)."""


class RequestError(Exception):
    """A request that fails with an HTTP status and a reason."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None, close: bool = False) -> None:
        """Store the response.

        Args:
            status: HTTP status.
            detail: One line: what was wrong, and what would work.
            retry_after_s: Seconds after which the client may retry; sets the header `Retry-After`.
            close: Close the connection, because the request body was not read to its end.
        """
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers: dict[str, str] = {"connection": "close"} if close else {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(retry_after_s)

    def problem_details(self) -> dict[str, Any]:
        """Return the members of RFC 9457; with the type `about:blank`, the title must be that of the status."""
        return {"type": "about:blank", "title": _title(self.status), "status": self.status, "detail": self.detail}


class ClientDisconnectedError(Exception):
    """A client that disconnected before its response."""


def error_response(error: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """Return the HTTP response for an error, with additional `headers`."""
    body = json.dumps(error.problem_details(), ensure_ascii=False).encode()
    return Response(body, error.status, {**error.headers, **(headers or {})}, PROBLEM_MEDIA_TYPE)


def install_error_handlers(app: FastAPI) -> None:
    """Make an application respond to every error with problem details."""
    app.add_exception_handler(RequestError, _handle_request_error)
    app.add_exception_handler(ClientDisconnectedError, _handle_disconnect)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, _handle_http_exception)
    app.add_exception_handler(Exception, _handle_unexpected_error)


async def _handle_request_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _handle_disconnect(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_CLOSED_REQUEST)


async def _handle_validation_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(RequestError(422, "; ".join(map(describe_validation_error, error.errors()))))


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """Return one line with the field and pydantic's message; the invalid value itself is never included."""
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "no such path; /docs lists the endpoints"
    elif error.status_code == 405:
        method = request.scope.get("original_method", request.method)
        allowed = (error.headers or {}).get("Allow", "another method")
        if "HEAD" not in allowed:
            allowed = allowed.replace("GET", "GET, HEAD")
        error.headers = {**(error.headers or {}), "Allow": allowed}
        detail = f"method {method[:40]} is not allowed; use {allowed}"
        if method == "PUT":
            detail += " (curl --data-binary @FILE, not -T)"
    return error_response(RequestError(error.status_code, detail), error.headers)


async def _handle_unexpected_error(_request: Request, _error: Exception) -> Response:
    return error_response(RequestError(500, "internal server error; the server's log has the traceback"))


def _title(status: int) -> str:
    if status in STATUS_TITLES:
        return STATUS_TITLES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
