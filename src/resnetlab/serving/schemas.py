"""What goes over the wire, as `/docs` describes it. Answers are built as plain JSON; the tests hold them to this."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field

Top = Annotated[int, Query(ge=1, description="Classes to name, the most probable first; all where there are fewer.")]
Explain = Annotated[bool, Query(description="Also draw where the picture shows what speaks for its class (Grad-CAM).")]


class ClassProbability(BaseModel):
    """A class and how probable it is."""

    model_config = ConfigDict(populate_by_name=True)
    name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1)


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    queue: float = Field(description="Waiting: for the worker, for a decoder, for the batch.")
    decode: float
    inference: float = Field(description="Of the whole batch that the image went with.")
    explain: float
    total: float = Field(description="From the whole request to its answer.")


class PredictionResponse(BaseModel):
    """What the network says of one image."""

    label: str = Field(description="The most probable class.")
    probability: float = Field(ge=0, le=1)
    top: list[ClassProbability] = Field(min_length=1)
    overlay: str | None = Field(
        default=None, description="With `explain`: the drawing as a data URI, `data:image/png;base64,…`."
    )
    times_ms: Timings


class ProblemDetails(BaseModel):
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str = Field(description="What was wrong, and what would work.")


class BatchRequest(BaseModel):
    """Several images."""

    model_config = ConfigDict(extra="forbid")
    images: list[str] = Field(min_length=1, description="Encoded images (JPEG, PNG, …), each as base64.")


class BatchResponse(BaseModel):
    """An answer for each image, in order: what the network says of it, or why it could not be seen."""

    predictions: list[PredictionResponse | ProblemDetails]


class ModelInfo(BaseModel):
    """What is served, and within which limits."""

    name: str = Field(description="The network, such as `resnet50`.")
    classes: list[str] = Field(description="Names of the classes, in the order of the network's outputs.")
    image_size: int = Field(description="Side in pixels of what the network sees.")
    channels: int = Field(description="3: colour; 1: grey.")
    preprocessing: dict[str, Any] = Field(description="How it sees images; without the mean of each pixel.")
    error: dict[str, Any] = Field(description="Errors measured at the end of training, in %, by split.")
    backend: str = Field(description="What computes: `torch`, `onnxruntime` or `openvino`.")
    precision: str = Field(description="What most of the arithmetic is done in: `fp32`, `bf16` or `int8`.")
    version: str = Field(description="Of resnetlab.")
    max_bytes: int = Field(description="Of one encoded image.")
    max_pixels: int = Field(description="That an image may claim.")
    max_batch_images: int = Field(description="Of one request to `/v1/predict/batch`.")


class Health(BaseModel):
    """How the server is."""

    status: str
