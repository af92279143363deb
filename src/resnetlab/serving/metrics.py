"""Prometheus metrics of one server, as `/metrics` returns them."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

disable_created_metrics()  # otherwise each counter and histogram gets a second series with its creation time

TIME_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """Counters, gauges and histograms of one server, in a registry of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._registry = registry
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "resnetlab_requests",
            "Requests by path and status; 499: the client disconnected.",
            ("path", "status"),
            registry=registry,
        )
        self.request_s = Histogram(
            "resnetlab_request_seconds",
            "From a request's headers to the end of its response, for all statuses.",
            ("path",),
            buckets=TIME_BUCKETS_S,
            registry=registry,
        )
        self.images = Counter("resnetlab_images", "Images processed, by outcome.", ("outcome",), registry=registry)
        self.batch_size = Histogram(
            "resnetlab_batch_images",
            "Size of the batch that an image was in, observed once per image.",
            buckets=BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self._stage_s = Histogram(
            "resnetlab_stage_seconds",
            "Time per image: queue (all waiting), decode, inference (of its batch), explain.",
            ("stage",),
            buckets=TIME_BUCKETS_S,
            registry=registry,
        )
        self.stages = {name: self._stage_s.labels(name) for name in ("queue", "decode", "inference", "explain")}
        self.total_s = Histogram(
            "resnetlab_image_seconds",
            "From a complete request to the result of one of its images.",
            buckets=TIME_BUCKETS_S,
            registry=registry,
        )
        self.queue = Gauge("resnetlab_queue_images", "Images that wait for the worker.", registry=registry)
        self.in_worker = Gauge("resnetlab_worker_images", "Images that the worker holds.", registry=registry)
        self.ready = Gauge("resnetlab_worker_ready", "1 if the worker is ready, otherwise 0.", registry=registry)
        self.restarts = Counter("resnetlab_worker_restarts", "Worker restarts.", registry=registry)

    @property
    def num_answered(self) -> int:
        """Requests that were answered, on every path; without those whose client disconnected."""
        samples = [sample for family in self.requests.collect() for sample in family.samples]
        return round(sum(sample.value for sample in samples if sample.labels["status"] != "499"))

    def to_text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
