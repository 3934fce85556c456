"""Numbers about a server for Prometheus."""

from __future__ import annotations

from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The numbers of one server, in a registry of their own."""

    def __init__(self) -> None:
        here = self.registry = CollectorRegistry()
        self.requests = Counter(
            "hyperpq_requests", "Requests that were answered.", ["route", "status"], registry=here
        )
        self.seconds = Histogram(
            "hyperpq_request_seconds",
            "From the head of a request to the end of its answer.",
            ["route"],
            buckets=_SECONDS,
            registry=here,
        )
        self.batches = Histogram(
            "hyperpq_batch_queries",
            "Queries that shared a run of the network and a scan.",
            buckets=_SIZES,
            registry=here,
        )
        self.refused = Counter(
            "hyperpq_refused", "Requests that found no room (503).", registry=here
        )
        self.waiting = Gauge("hyperpq_waiting_queries", "Queries in the queue.", registry=here)
        self.held = Gauge("hyperpq_held_bytes", "Bytes of uploads in memory.", registry=here)
        self.rows = Gauge("hyperpq_index_rows", "Rows of the index.", registry=here)
        self.cells = Gauge("hyperpq_index_cells", "Cells of the index.", registry=here)
        self.snapshot = Gauge("hyperpq_index_snapshot", "Number of the snapshot.", registry=here)
        self.reloads = Counter(
            "hyperpq_reloads",
            "New snapshots, and attempts that failed.",
            ["outcome"],
            registry=here,
        )
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def text(self) -> bytes:
        """All numbers, in the text format of Prometheus."""
        return generate_latest(self.registry)


class Measured:
    """Counts the requests of an application, by the route that answered.

    Parameters
    ----------
    app : ASGI application
        What is measured.
    metrics : Metrics
        Where to count.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            # Only routes that there are: whatever is asked for beside them has one label.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
            if status == 503 and route != "/readyz":
                self._metrics.refused.inc()
            self._metrics.seconds.labels(route).observe(perf_counter() - start)
