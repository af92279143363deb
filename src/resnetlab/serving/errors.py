"""What went wrong, for a program and for a person: problem details (RFC 9457)."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

MEDIA_TYPE = "application/problem+json"
NAMES = {413: "Content Too Large", 421: "Misdirected Request", 422: "Unprocessable Content"}
"""As RFC 9110 calls them; Python before 3.13 has older names."""
GONE = 499
"""Nobody sends it: what is counted where a client left before its answer (nginx's number)."""


class RequestError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, detail: str, *, retry_after_s: int | None = None, close: bool = False) -> None:
        """Take the HTTP status, and one line that says what was wrong and what would work.

        `retry_after_s`: when it may be tried again. `close`: the connection is of no more use, since its body was not
        read to the end.
        """
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers: dict[str, str] = {"connection": "close"} if close else {}
        if retry_after_s is not None:
            self.headers["retry-after"] = str(retry_after_s)

    def content(self) -> dict[str, Any]:
        """Return its members; the type is `about:blank`, so that the title is that of the status."""
        return {"type": "about:blank", "title": _title(self.status), "status": self.status, "detail": self.detail}


class ClientDisconnectedError(Exception):
    """A client that left before its answer."""


def error_response(problem: RequestError, headers: Mapping[str, str] | None = None) -> Response:
    """Make the HTTP response of a problem."""
    content = json.dumps(problem.content(), ensure_ascii=False).encode()
    return Response(content, problem.status, {**problem.headers, **(headers or {})}, MEDIA_TYPE)


def install_error_handlers(app: FastAPI) -> None:
    """Have every error of an application answered as a problem."""
    app.add_exception_handler(RequestError, _known)
    app.add_exception_handler(ClientDisconnectedError, _gone)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _unknown)


async def _known(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=GONE)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(RequestError(422, "; ".join(describe_validation_error(one) for one in error.errors())))


def describe_validation_error(error: Mapping[str, Any]) -> str:
    """Say in one line where a value is wrong, and how; pydantic's message, and never the value itself."""
    return f"{'.'.join(str(part) for part in error['loc'])}: {error['msg']}"


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    detail = str(error.detail)
    if error.status_code == 404:
        detail = "there is nothing here; /docs lists what there is"
    elif error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another method")
        detail = f"{request.method} is not understood here; {allowed} is"
    return error_response(RequestError(error.status_code, detail), error.headers)


async def _unknown(_request: Request, _error: Exception) -> Response:
    return error_response(RequestError(500, "the server made a mistake; its log says which"))


def _title(status: int) -> str:
    if status in NAMES:
        return NAMES[status]
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
