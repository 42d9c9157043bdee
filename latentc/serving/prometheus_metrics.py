"""What `/metrics` tells, in Prometheus' text format."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Those that are counted by name. HTTP takes any word for one, and each label that was ever used is kept."""

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class Metrics:
    """The counters of one server, apart from all others of the process.

    Attributes:
        waited: seconds from a request's arrival to the start of each of its batches.
        errors: pictures' failures, by code.
        restarts: of a model's process.
    """

    def __init__(self, waiting: Callable[[], float]) -> None:
        """
        Args:
            waiting: how many pictures wait.
        """
        self._registry = CollectorRegistry()
        queue = Gauge("latentc_queue_pictures", "Pictures that wait.", registry=self._registry)
        queue.set_function(waiting)
        self.waited = Histogram(
            "latentc_queue_seconds",
            "Seconds from a request's arrival to its start.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._requests = Counter(
            "latentc_requests", "Requests.", ("method", "route", "status"), registry=self._registry
        )
        self.errors = Counter("latentc_errors", "Batches that failed.", ("code",), registry=self._registry)
        self.restarts = Counter(
            "latentc_engine_restarts", "Engines started again.", ("model",), registry=self._registry
        )
        self._pictures = Counter("latentc_pictures", "Pictures.", ("model",), registry=self._registry)
        self._batch = Histogram(
            "latentc_batch_seconds",
            "Seconds of one batch.",
            ("model",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._component = Counter(
            "latentc_component_seconds", "Seconds in a component's method.", ("model", "method"),
            registry=self._registry,
        )  # fmt: skip
        self._calls = Counter(
            "latentc_component_calls", "Calls of a component's method.", ("model", "method"),
            registry=self._registry,
        )  # fmt: skip

    def requested(self, method: str, route: str, status: int) -> None:
        """Counts one request.

        Args:
            route: as the server declares it, with the names of its parameters; never the path that was asked for.
        """
        self._requests.labels(method if method in METHODS else "other", route, status).inc()

    def drawn(self, model: str, pictures: int, timings: Mapping[str, Any]) -> None:
        """Counts one batch.

        Args:
            timings: `runtimes.meter.Timings` as a dict.
        """
        self._pictures.labels(model).inc(pictures)
        self._batch.labels(model).observe(timings["total"])
        for method, time in timings["components"].items():
            self._component.labels(model, method).inc(time["seconds"])
            self._calls.labels(model, method).inc(time["calls"])

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return bytes(generate_latest(self._registry))
