"""Schemas of requests and responses, for the OpenAPI document.

Responses are built as plain JSON, which is faster; the tests validate them against these schemas.
"""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

TopQuery = Annotated[
    int, Query(ge=1, description="Number of classes to return, the most probable first; at most all of them.")
]
ExplainQuery = Annotated[
    bool, Query(description="Also return a Grad-CAM overlay: the regions of the image that support the class.")
]


class ClassProbability(BaseModel):
    """A class and its probability."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class Timings(BaseModel):
    """Milliseconds by stage."""

    queue: float = Field(description="Waiting: for the worker, a decoder and the batch.")
    decode: float
    inference: float = Field(description="Time of the whole batch that the image was in.")
    explain: float
    total: float = Field(description="From the complete request to the result.")


class PredictionResponse(BaseModel):
    """The prediction for one image."""

    label: str = Field(description="The most probable class; `unknown` if it is not probable enough.")
    probability: float = Field(ge=0, le=1, description="Probability of the most probable class.")
    unknown: bool | None = Field(
        default=None, description="With `--reject-below`: whether the most probable class is less probable than that."
    )
    labels: list[str] | None = Field(
        default=None,
        description="Of a model for several labels an image: those at least as probable as their thresholds.",
    )
    top: list[ClassProbability] = Field(min_length=1)
    overlay: str | None = Field(
        default=None, description="With `explain`: the Grad-CAM overlay as a data URI, `data:image/png;base64,…`."
    )
    times_ms: Timings


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What was wrong, and what would work.")


class BatchRequest(BaseModel):
    """Several images."""

    model_config = ConfigDict(extra="forbid")
    images: list[str] = Field(min_length=1, description="Encoded images (JPEG, PNG, …), each as base64.")


class BatchResponse(BaseModel):
    """One prediction or error per image, in the order of the request."""

    predictions: list[PredictionResponse | ProblemDetails]


class ModelInfo(BaseModel):
    """The model and the limits of the server."""

    name: str = Field(description="The architecture, such as `resnet50`.")
    classes: list[str] = Field(description="Class names, in the order of the network's outputs.")
    image_size: int = Field(description="Side of the network's input, in pixels; its height if it is not square.")
    channels: int = Field(description="3: RGB; 1: greyscale.")
    preprocessing: dict[str, Any] = Field(description="Preprocessing of images, without the per-pixel mean.")
    error: dict[str, Any] = Field(description="Errors in % by split, measured at the end of training.")
    temperature: float = Field(description="Number that divides the logits before the softmax; 1 if none was fitted.")
    reject_below: float | None = Field(description="Least probability of an accepted class; `null` accepts all.")
    thresholds: list[float] | None = Field(
        description="Least probability of each label, if an image may have several; else `null`."
    )
    backend: str = Field(description="The inference runtime for one image: `torch`, `onnxruntime` or `openvino`.")
    precision: str = Field(description="The lowest precision in use: `fp32`, `bf16` or `int8`.")
    runtime: str = Field(description="Runtime and precision; two of them if large batches use another one.")
    version: str = Field(description="Version of resnetlab.")
    max_bytes: int = Field(description="Largest encoded image, in bytes.")
    max_pixels: int = Field(description="Largest image, in pixels according to its header.")
    max_batch_images: int = Field(description="Most images in one request to `/v1/predict/batch`.")


class Health(BaseModel):
    """State of the server."""

    status: str
