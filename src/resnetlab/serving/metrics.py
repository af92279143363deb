"""What `/metrics` tells, in Prometheus' form. Each server counts for itself."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # a second series for each, of no use here

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
"""Bounds of the histograms of time."""
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
"""Bounds of the histogram of batches."""


class ServerMetrics:
    """Counters and histograms of one server."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "resnetlab_requests",
            "Requests by path and status; 499: the client left.",
            ("path", "status"),
            registry=registry,
        )
        self.request_s = Histogram(
            "resnetlab_request_seconds",
            "From a request's headers to the end of its answer, accepted or not.",
            ("path",),
            buckets=SECONDS,
            registry=registry,
        )
        self.images = Counter("resnetlab_images", "Images answered, by outcome.", ("outcome",), registry=registry)
        self.batch = Histogram(
            "resnetlab_batch_images",
            "Images that went through the network together, told once an image.",
            buckets=SIZES,
            registry=registry,
        )
        self.stage_s = Histogram(
            "resnetlab_stage_seconds",
            "Of an image: queue (all waiting), decode, inference (of its batch), explain.",
            ("stage",),
            buckets=SECONDS,
            registry=registry,
        )
        self.total_s = Histogram(
            "resnetlab_image_seconds",
            "From a whole request to the answer for one of its images.",
            buckets=SECONDS,
            registry=registry,
        )
        self.queue = Gauge("resnetlab_queue_images", "Images that wait for the worker.", registry=registry)
        self.in_worker = Gauge("resnetlab_worker_images", "Images that the worker has.", registry=registry)
        self.ready = Gauge("resnetlab_worker_ready", "1 where the worker answers.", registry=registry)
        self.restarts = Counter("resnetlab_worker_restarts", "Workers that had to be replaced.", registry=registry)
        self.stages = {name: self.stage_s.labels(name) for name in ("queue", "decode", "inference", "explain")}

    def text(self) -> bytes:
        """Return all of them in Prometheus' text format."""
        return generate_latest(self._registry)
