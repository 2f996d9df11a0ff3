"""Metrics for Prometheus, and the routes for monitoring: /healthz, /readyz and /metrics."""

from __future__ import annotations

from collections.abc import Iterator

from anyio import move_on_after, to_thread
from fastapi import Request
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mmsearch.server.indexes import ServedIndexes, unreachable
from mmsearch.server.problems import AsciiJSONResponse, route_of
from mmsearch.server.requests import strict_router

router = strict_router(tag="server")

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Seconds."""

READY_WITHIN = 5.0
"""Seconds within which the servers that hold indexes must answer."""

METHODS = frozenset({"GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT", "PATCH"})


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self, indexes: ServedIndexes) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "mmsearch_requests",
            "Requests, by route and status.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._work = Histogram(
            "mmsearch_work_seconds",
            "Seconds of searches, encodings and thumbnails, waiting included.",
            ["work"],
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._registry.register(_Items(indexes))
        ProcessCollector(registry=self._registry)

    def observe(self, work: str, seconds: float) -> None:
        """Record the seconds that a search, an encoding or a thumbnail took."""
        self._work.labels(work).observe(seconds)

    def count(self, method: str, route: str, status: int) -> None:
        """Count a request."""
        known = method if method in METHODS else "other"
        self._requests.labels(known, route, str(status)).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _Items(Collector):
    def __init__(self, indexes: ServedIndexes) -> None:
        self._indexes = indexes

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily("mmsearch_items", "Items of an index.", labels=["index"])
        for name, items in self._indexes.sizes().items():
            family.add_metric([name], items)
        yield family


class CountRequests:
    """Counts requests by the pattern of their route: ids and queries do not become labels."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 - ASGI
        status = 500

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            if scope["type"] == "http":
                self._metrics.count(scope["method"], route_of(scope), status)


@router.get("/healthz", summary="Whether the server runs")
async def healthz() -> AsciiJSONResponse:
    """Answers as soon as the server runs. Needs no token."""
    return AsciiJSONResponse({"status": "ok"})


@router.get("/readyz", summary="Whether searches can be answered")
async def readyz(request: Request) -> AsciiJSONResponse:
    """503 until the models are loaded, and while a server that holds an index does not answer.

    Needs no token.
    """
    indexes: ServedIndexes = request.app.state.indexes
    indexes.check_ready()
    with move_on_after(READY_WITHIN) as waiting:
        await to_thread.run_sync(indexes.check_reachable, READY_WITHIN, abandon_on_cancel=True)
    if waiting.cancelled_caught:
        raise unreachable()
    return AsciiJSONResponse({"status": "ready"})


@router.get(
    "/metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request) -> Response:
    """Requests by route and status, seconds of each kind of work, items, memory."""
    text = await run_in_threadpool(request.app.state.metrics.text)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})
