"""The HTTP routes: predict, predict/batch, model, health, readiness and metrics."""

import asyncio
import base64
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response

from resnetlab import __version__
from resnetlab.inference.rejection import UNKNOWN
from resnetlab.serving.batch_json import BatchParser
from resnetlab.serving.errors import PROBLEM_MEDIA_TYPE, ClientDisconnectedError, RequestError
from resnetlab.serving.form_data import FormParser
from resnetlab.serving.image_body import IMAGE_FORMATS, URL_ENCODED, check_image
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.request_body import BodyParser, RequestBodyReader, WholeBody
from resnetlab.serving.schemas import (
    BatchRequest,
    BatchResponse,
    ExplainQuery,
    Health,
    ModelInfo,
    PredictionResponse,
    ProblemDetails,
    TopQuery,
)
from resnetlab.serving.worker_supervisor import PendingRequest, WorkerReply, WorkerSupervisor

IMAGE_MEDIA_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/gif",
    "image/bmp",
    "image/tiff",
    "application/octet-stream",
)
FORM, JSON = "multipart/form-data", "application/json"
FILE = {"type": "string", "format": "binary"}
"""OpenAPI schema of an encoded image."""
FORM_BYTES = 1 << 16
"""Bytes of a form around its image."""
SERVER_ERRORS = {500, 501, 503}
"""Statuses of one image that fail a whole batch: the server caused them, not the image."""

T = TypeVar("T")


def error_responses(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of errors; keywords are `_STATUS="description"`."""
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}}}
    return {int(name[1:]): {"description": text, "content": content} for name, text in by_status.items()}


def form_schema(files: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI schema of a form whose field `file` has the schema `files`."""
    return {"type": "object", "required": ["file"], "properties": {"file": files}, "additionalProperties": False}


PREDICT_ERRORS = error_responses(
    _400="The request cannot be parsed.",
    _403="A cross-site request from a web page.",
    _408="The body did not arrive in time.",
    _413="Too many bytes or pixels.",
    _415="Not an image, or a compressed body.",
    _421="The host is not allowed.",
    _422="A damaged image, or a parameter outside its range.",
    _429="The queue is full; see Retry-After.",
    _500="The model or the server failed.",
    _501="A package that explanations need is not installed.",
    _503="Shutting down, restarting, or no result in time; see Retry-After. Or the model file has changed, which "
    "explanations need.",
)
PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "description": f"One encoded image ({IMAGE_FORMATS}), or a form ({FORM}) with one file. Apart from that the "
        "content type is ignored; the bytes decide.",
        "content": {
            **{kind: {"schema": FILE} for kind in IMAGE_MEDIA_TYPES},
            FORM: {"schema": form_schema(FILE)},
        },
    }
}


def make_router(
    supervisor: WorkerSupervisor, body_reader: RequestBodyReader, *, limits: Limits, metrics: ServerMetrics
) -> APIRouter:
    """Return a router with all routes of the API."""
    router = APIRouter()
    _add_predict_routes(router, supervisor, body_reader, limits)
    _add_status_routes(router, supervisor, limits, metrics)
    return router


def _add_predict_routes(
    router: APIRouter, supervisor: WorkerSupervisor, body_reader: RequestBodyReader, limits: Limits
) -> None:
    """Add the routes that send images to the worker.

    Both check the queue before and after reading the body: before, to reject early; after, because others may have
    filled it meanwhile.
    """

    @router.post(
        "/v1/predict",
        summary="Classify an image",
        openapi_extra=PREDICT_BODY,
        responses={200: {"model": PredictionResponse}, **PREDICT_ERRORS},
    )
    async def predict(request: Request, top: TopQuery = 5, explain: ExplainQuery = False) -> Response:
        supervisor.check_capacity()
        kind = media_type(request)
        parser = form_parser(request, 1, limits.max_bytes) if kind == FORM else WholeBody()
        async with body_reader.read(request, limits.max_bytes + FORM_BYTES * (kind == FORM), parser) as body:
            data = body if isinstance(body, bytes) else body[0]
            if isinstance(data, RequestError):
                raise data
            check_image(data, kind)
            supervisor.check_capacity()
            pending = supervisor.submit(data, top=top, explain=explain)
            reply = await cancel_on_disconnect(request, supervisor.result(pending))
        return json_response(prediction_json(reply))

    @router.post(
        "/v1/predict/batch",
        summary="Classify several images",
        openapi_extra=batch_body(limits),
        responses={200: {"model": BatchResponse}, **PREDICT_ERRORS},
    )
    async def predict_batch(request: Request, top: TopQuery = 5, explain: ExplainQuery = False) -> Response:
        supervisor.check_capacity()
        async with body_reader.read(request, limits.max_batch_bytes, batch_parser(request, limits)) as images:
            supervisor.check_capacity(len(images))
            results = submit_batch(supervisor, images, top=top, explain=explain)
            images.clear()  # the supervisor has them
            predictions = await cancel_on_disconnect(request, results)
        return json_response({"predictions": predictions})


def media_type(request: Request) -> str:
    """Return the content type of a request in lower case, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def form_parser(request: Request, max_images: int, max_bytes: int) -> FormParser:
    """Return a parser for the form in a request."""
    return FormParser(request.headers["content-type"], max_images, max_bytes)


def batch_parser(request: Request, limits: Limits) -> BodyParser[list[bytes | RequestError]]:
    """Return the parser for the body of a batch request.

    JSON must be declared as such: a web page may send other types to any server without asking it first. `curl`
    declares a form unless it is given a header. That is accepted from clients that are not browsers.

    Raises:
        RequestError: 415 for another content type.
    """
    kind = media_type(request)
    if kind == FORM:
        return form_parser(request, limits.max_batch_images, limits.max_bytes)
    from_browser = "origin" in request.headers or "sec-fetch-site" in request.headers
    if kind == JSON or (kind in ("", URL_ENCODED) and not from_browser):
        return BatchParser(limits.max_batch_images, limits.max_bytes)
    raise RequestError(
        415,
        f"the content type {kind[:40]!a} is not supported; send {JSON} (curl --header 'content-type: {JSON}') "
        f"or {FORM} (curl -F file=@FILE)",
        close=True,
    )


def _add_status_routes(router: APIRouter, supervisor: WorkerSupervisor, limits: Limits, metrics: ServerMetrics) -> None:
    """Add the routes that describe the model and the state of the server."""

    @router.get(
        "/v1/model",
        summary="Describe the model",
        responses={200: {"model": ModelInfo}, **error_responses(_503="The model is loading.")},
    )
    async def model() -> Response:
        if supervisor.model_info is None:
            raise RequestError(503, f"{supervisor.unavailable_reason}; retry in 1 s", retry_after_s=1)
        server_limits = {
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_megapixels * 1_000_000,
            "max_batch_images": limits.max_batch_images,
        }
        return json_response({**supervisor.model_info, "version": __version__, **server_limits})

    @router.get("/healthz", summary="Whether the server runs", responses={200: {"model": Health}})
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @router.get(
        "/readyz",
        summary="Whether the worker is ready",
        responses={
            200: {"model": Health},
            **error_responses(_503="Loading, restarting or shutting down; `detail` has the reason."),
        },
    )
    async def readyz() -> Response:
        if supervisor.unavailable_reason is not None:
            raise RequestError(503, supervisor.unavailable_reason, retry_after_s=1)
        return json_response({"status": "ready"})

    @router.get("/metrics", summary="Prometheus metrics", response_class=Response)
    async def prometheus_metrics() -> Response:
        return Response(metrics.to_text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def batch_body(limits: Limits) -> dict[str, Any]:
    """Return the OpenAPI description of a batch request, with this server's limit on the number of images."""
    schema = BatchRequest.model_json_schema()
    schema["properties"]["images"]["maxItems"] = limits.max_batch_images
    description = f"JSON with base64 (standard or URL-safe, padding optional), or a form ({FORM}) with several files."
    files = {"type": "array", "items": FILE, "minItems": 1, "maxItems": limits.max_batch_images}
    content = {JSON: {"schema": schema}, FORM: {"schema": form_schema(files)}}
    return {"requestBody": {"required": True, "description": description, "content": content}}


def submit_batch(
    supervisor: WorkerSupervisor, images: list[bytes | RequestError], *, top: int, explain: bool
) -> Coroutine[Any, Any, list[dict[str, Any]]]:
    """Submit all images now, and return a coroutine that waits for their results.

    Each result is a `PredictionResponse` or `ProblemDetails` as plain JSON.

    Raises:
        RequestError: If the server caused the failure of an image.
    """
    submitted = [
        image if isinstance(image, RequestError) else supervisor.submit(image, top=top, explain=explain)
        for image in images
    ]

    async def result(item: RequestError | PendingRequest) -> dict[str, Any]:
        if isinstance(item, RequestError):
            return item.problem_details()
        try:
            return prediction_json(await supervisor.result(item))
        except RequestError as error:
            if error.status in SERVER_ERRORS:
                raise
            return error.problem_details()

    async def results() -> list[dict[str, Any]]:
        tasks = [asyncio.ensure_future(result(item)) for item in submitted]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # after a failure, the images of this request need no results
                task.cancel()

    return results()


def prediction_json(reply: WorkerReply) -> dict[str, Any]:
    """Return a `PredictionResponse` as plain JSON."""
    label, probability = reply.top[0]
    content: dict[str, Any] = {
        "label": UNKNOWN if reply.is_unknown else label,
        "probability": probability,
        **({} if reply.is_unknown is None else {"unknown": reply.is_unknown}),
        **({} if reply.labels is None else {"labels": reply.labels}),
        "top": [{"class": name, "probability": value} for name, value in reply.top],
    }
    if reply.overlay_png:
        content["overlay"] = f"data:image/png;base64,{base64.b64encode(reply.overlay_png).decode()}"
    content["times_ms"] = {stage: round(ms, 3) for stage, ms in reply.times_ms.items()}
    return content


def json_response(content: Any) -> Response:
    """Return a response with plain JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), media_type="application/json")


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine; cancel it if the client disconnects first.

    Raises:
        ClientDisconnectedError: If the client disconnected.
    """
    task = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(request.receive())  # once the body is read, the only message is a disconnect
    try:
        await asyncio.wait((task, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnectedError
        return task.result()
    finally:
        disconnect.cancel()
        task.cancel()
