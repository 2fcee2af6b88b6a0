"""Prometheus metrics of a server, in a separate registry."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from vqlab.watch import DriftState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters and histograms; labels are routes, statuses, categories, versions and verdicts only,
    so that clients cannot create new ones."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._drift_categories: set[str] = set()
        self._drift_streams: set[tuple[str, str]] = set()
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
        self._drift_wealth = Gauge(
            "vqlab_drift_wealth", "Wealth of the drift test of vqlab watch: an alarm at 1 / level.",
            ["category"], registry=registry,
        )  # fmt: skip
        self._drift_stream_wealth = Gauge(
            "vqlab_drift_stream_wealth", "Wealth of each property that the drift test uses.",
            ["category", "stream"], registry=registry,
        )  # fmt: skip
        self._drift_alarm = Gauge(
            "vqlab_drift_alarm", "1 after a drift alarm.", ["category"], registry=registry
        )
        self.replaced = Counter(
            "vqlab_champions_replaced", "Champions replaced since the start.", registry=registry
        )
        self.poll_failures = Counter(
            "vqlab_poll_failures", "Failed checks for new champions.", registry=registry
        )

    def show_drift(self, states: Mapping[str, DriftState]) -> None:
        """Show the drift tests of these categories only; no series is absent in between."""
        streams = {(name, stream) for name, state in states.items() for stream in state.wealths}
        for category, state in states.items():
            self._drift_wealth.labels(category).set(state.wealth)
            for stream, wealth in state.wealths.items():
                self._drift_stream_wealth.labels(category, stream).set(wealth)
            self._drift_alarm.labels(category).set(state.alarm is not None)
        for category in self._drift_categories - set(states):
            self._drift_wealth.remove(category)
            self._drift_alarm.remove(category)
        for labels in self._drift_streams - streams:
            self._drift_stream_wealth.remove(*labels)
        self._drift_categories, self._drift_streams = set(states), streams

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)
