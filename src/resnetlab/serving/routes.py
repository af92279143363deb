"""The endpoints: what is asked of the worker, and how its answers are put."""

import asyncio
import base64
import binascii
import json
from collections.abc import Coroutine
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from resnetlab import __version__
from resnetlab.data.images.sniff import detect_format
from resnetlab.serving.errors import MEDIA_TYPE, ClientDisconnectedError, RequestError, describe_validation_error
from resnetlab.serving.limits import Limits
from resnetlab.serving.metrics import ServerMetrics
from resnetlab.serving.request_body import RequestBodyReader
from resnetlab.serving.schemas import (
    BatchRequest,
    BatchResponse,
    Explain,
    Health,
    ModelInfo,
    PredictionResponse,
    ProblemDetails,
    Top,
)
from resnetlab.serving.worker_supervisor import PendingRequest, WorkerReply, WorkerSupervisor

KINDS = ("image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "image/tiff", "application/octet-stream")
PICTURES = "JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
OURS = {500, 501, 503}
"""Statuses of one image that become those of a whole batch: the fault is not the image's."""

T = TypeVar("T")


def error_responses(**by_status: str) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of an endpoint, each as `_STATUS="when it comes"`."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDetails.__name__}"}}}
    return {int(name[1:]): {"description": text, "content": content} for name, text in by_status.items()}


PREDICTING = error_responses(
    _400="The request cannot be read.",
    _403="A page of another site asks.",
    _408="The body is too slow.",
    _413="Too many bytes or pixels.",
    _415="Not an image, or a compressed body.",
    _421="Another host is meant.",
    _422="A damaged image, or a parameter out of its range.",
    _429="The queue is full; see Retry-After.",
    _500="The network or the server is broken.",
    _501="Explanations are not installed.",
    _503="Stopping, restarting, or no answer in time; see Retry-After.",
)
IMAGE_BODY = {
    "requestBody": {
        "required": True,
        "description": f"One encoded image ({PICTURES}); its bytes tell which, whatever the content type says.",
        "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in KINDS},
    }
}


def make_router(crew: WorkerSupervisor, intake: RequestBodyReader, limits: Limits, meters: ServerMetrics) -> APIRouter:
    """Make the endpoints of a server."""
    router = APIRouter()
    _add_work(router, crew, intake, limits)
    _add_state(router, crew, limits, meters)
    return router


def _add_work(router: APIRouter, crew: WorkerSupervisor, intake: RequestBodyReader, limits: Limits) -> None:
    """Add what the worker is asked for."""

    @router.post(
        "/v1/predict",
        summary="Name what is in an image",
        openapi_extra=IMAGE_BODY,
        responses={200: {"model": PredictionResponse}, **PREDICTING},
    )
    async def predict(request: Request, top: Top = 5, explain: Explain = False) -> Response:
        crew.check_room()
        async with intake.body(request, limits.max_bytes) as data:
            check_image(data)
            crew.check_room()
            reply = await cancel_on_disconnect(request, crew.answer(crew.ask(data, top, explain)))
        return json_response(prediction_json(reply))

    @router.post(
        "/v1/predict/batch",
        summary="Name what is in several images",
        openapi_extra=batch_body(limits),
        responses={200: {"model": BatchResponse}, **PREDICTING},
    )
    async def predict_batch(request: Request, top: Top = 5, explain: Explain = False) -> Response:
        crew.check_room()
        async with intake.body(request, limits.max_batch_bytes) as data:
            images = await asyncio.to_thread(read_batch, data, limits)
            crew.check_room(len(images))
            answers = await cancel_on_disconnect(request, ask_each(crew, images, top, explain))
        return json_response({"predictions": answers})


def _add_state(router: APIRouter, crew: WorkerSupervisor, limits: Limits, meters: ServerMetrics) -> None:
    """Add what the server tells of itself."""

    @router.get(
        "/v1/model", summary="What is served", responses={200: {"model": ModelInfo}, **error_responses(_503="Not yet.")}
    )
    async def model() -> Response:
        if crew.model is None:
            raise RequestError(503, f"{crew.trouble}; ask again", retry_after_s=1)
        sizes = {
            "max_bytes": limits.max_bytes,
            "max_pixels": limits.max_megapixels * 1_000_000,
            "max_batch_images": limits.max_batch_images,
        }
        return json_response({**crew.model, "version": __version__, **sizes})

    @router.get("/healthz", summary="Whether the server lives", responses={200: {"model": Health}})
    async def healthz() -> Response:
        return json_response({"status": "ok"})

    @router.get(
        "/readyz",
        summary="Whether it answers at the moment",
        responses={
            200: {"model": Health},
            **error_responses(_503="Loading, restarting or stopping; the detail says which."),
        },
    )
    async def readyz() -> Response:
        if crew.trouble is not None:
            raise RequestError(503, crew.trouble, retry_after_s=1)
        return json_response({"status": "ready"})

    @router.get("/metrics", summary="Counters and times for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def batch_body(limits: Limits) -> dict[str, Any]:
    """Describe the body of a batch, with the number of images that this server takes."""
    schema = BatchRequest.model_json_schema()
    schema["properties"]["images"]["maxItems"] = limits.max_batch_images
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def check_image(data: bytes) -> None:
    """See that a body begins as an image does.

    Raises:
        Problem: 415 with a hint at what it seems to be instead.
    """
    if detect_format(data[:12]) is not None:
        return
    if not data:
        raise RequestError(415, f"the body is empty; send an image as it is ({PICTURES}), such as --data-binary @FILE")
    hint = ""
    if data.startswith(b"--"):
        hint = "; it seems to be a form, and the image must be the body itself (curl --data-binary @FILE, not -F)"
    elif data.lstrip()[:1] in (b"{", b"["):
        hint = "; JSON with images as base64 goes to /v1/predict/batch"
    raise RequestError(415, f"the body is no image that can be read ({PICTURES}){hint}")


def read_batch(data: bytes, limits: Limits) -> list[bytes | RequestError]:
    """Return the images of a batch, or what is wrong with each.

    Raises:
        Problem: where the whole is wrong.
    """
    try:
        texts = BatchRequest.model_validate_json(data).images
    except ValidationError as error:
        raise RequestError(
            422, f"the body: {'; '.join(describe_validation_error(one) for one in error.errors()[:3])}"
        ) from None
    if len(texts) > limits.max_batch_images:
        raise RequestError(
            413, f"{len(texts)} images are more than {limits.max_batch_images}; send them in several requests"
        )
    return [_from_base64(text, limits.max_bytes) for text in texts]


def _from_base64(text: str, max_bytes: int) -> bytes | RequestError:
    try:
        data = base64.b64decode(text, validate=True)
        check_image(data)
    except (binascii.Error, ValueError) as error:
        hint = "; leave out what stands before the comma" if text.startswith("data:") else ""
        return RequestError(422, f"not base64 ({error}){hint}")
    except RequestError as problem:
        return RequestError(problem.status, problem.detail.replace("the body", "the image"))
    if len(data) > max_bytes:
        return RequestError(413, f"the image has {len(data):,} bytes, more than {max_bytes:,}")
    return data


def ask_each(
    crew: WorkerSupervisor, images: list[bytes | RequestError], top: int, explain: bool
) -> Coroutine[Any, Any, list[dict]]:
    """Ask about each image now; what is returned waits for the answers.

    Raises:
        Problem: where the server is at fault for one of them.
    """
    asked = [one if isinstance(one, RequestError) else crew.ask(one, top, explain) for one in images]

    async def answer(one: RequestError | PendingRequest) -> dict[str, Any]:
        try:
            return one.content() if isinstance(one, RequestError) else prediction_json(await crew.answer(one))
        except RequestError as problem:
            if problem.status in OURS:
                raise
            return problem.content()

    async def answers() -> list[dict]:
        return await asyncio.gather(*map(answer, asked))

    return answers()


def prediction_json(reply: WorkerReply) -> dict[str, Any]:
    """Return a `PredictionResponse` as plain JSON."""
    label, probability = reply.top[0]
    said: dict[str, Any] = {
        "label": label,
        "probability": probability,
        "top": [{"class": name, "probability": one} for name, one in reply.top],
    }
    if reply.drawing:
        said["overlay"] = f"data:image/png;base64,{base64.b64encode(reply.drawing).decode()}"
    said["times_ms"] = {stage: round(ms, 3) for stage, ms in reply.ms.items()}
    return said


def json_response(content: Any) -> Response:
    """Return a response of plain JSON."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode(), media_type="application/json")


async def cancel_on_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what some work gives; drop it where the client leaves meanwhile.

    Raises:
        ClientGoneError: where it did.
    """
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # after a body nothing comes but the end
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientDisconnectedError
        return doing.result()
    finally:
        leaving.cancel()
        doing.cancel()
