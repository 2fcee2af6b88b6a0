"""Prometheus metrics of a server, in a separate registry."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters and histograms; labels are routes, statuses, categories, versions and verdicts only,
    so that clients cannot create new ones."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vqlab_requests", "Requests.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "vqlab_request_seconds", "Duration of requests.", ["route"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.images = Counter(
            "vqlab_images", "Images by verdict; `error`: not scored.", ["category", "verdict"],
            registry=registry,
        )  # fmt: skip
        self.batch_seconds = Histogram(
            "vqlab_batch_seconds", "Time to score a batch.", ["category"], buckets=_SECONDS,
            registry=registry,
        )  # fmt: skip
        self.batch_images = Histogram(
            "vqlab_batch_images", "Images of a batch.", ["category"],
            buckets=(1, 2, 4, 8, 16, 32), registry=registry,
        )  # fmt: skip
        self.images_in_progress = Gauge(
            "vqlab_images_in_progress", "Images admitted and not yet answered.", registry=registry
        )
        self.champion = Gauge(
            "vqlab_champion_version", "Version of the champion in use.", ["category"],
            registry=registry,
        )  # fmt: skip
        self.drift_wealth = Gauge(
            "vqlab_drift_wealth", "Wealth of the drift test of vqlab watch: an alarm at 1 / level.",
            ["category"], registry=registry,
        )  # fmt: skip
        self.drift_stream_wealth = Gauge(
            "vqlab_drift_stream_wealth", "Wealth of each property that the drift test uses.",
            ["category", "stream"], registry=registry,
        )  # fmt: skip
        self.drift_alarm = Gauge(
            "vqlab_drift_alarm", "1 after a drift alarm.", ["category"], registry=registry
        )
        self.replaced = Counter(
            "vqlab_champions_replaced", "Champions replaced since the start.", registry=registry
        )
        self.poll_failures = Counter(
            "vqlab_poll_failures", "Failed checks for new champions.", registry=registry
        )

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
