"""The server as an ASGI application."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from mmsearch import __version__
from mmsearch.server import (
    contents,
    embeddings,
    media_files,
    metrics,
    searches,
    security,
    uploads,
    waveforms,
)
from mmsearch.server.derived_files import DerivedFiles, FileCache, folder_of
from mmsearch.server.indexes import ServedIndexes
from mmsearch.server.jobs import Jobs
from mmsearch.server.jobs import router as job_routes
from mmsearch.server.limits import BodyLimits, Limits, Workers
from mmsearch.server.mcp_endpoint import McpEndpoint
from mmsearch.server.metrics import CountRequests, Metrics
from mmsearch.server.problems import (
    MEDIA_TYPE,
    PROBLEM_RESPONSES,
    PROBLEM_SCHEMA,
    AsciiJSONResponse,
    UnexpectedErrors,
    add_problem_handlers,
    logger,
)
from mmsearch.server.security import Access, Security
from mmsearch.server.services import Services
from mmsearch.server.uploads import Uploads

API = "/api/v1"

STATIC = Path(__file__).with_name("static")
"""The page."""


def create_app(
    indexes: ServedIndexes,
    *,
    access: Access | None = None,
    limits: Limits | None = None,
    watch: bool = False,
    on_ready: Callable[[], None] = lambda: None,
) -> FastAPI:
    """The application that serves some indexes; it closes them when it ends.

    `app.state.stop()` makes it begin to end: event streams, jobs and slow work stop, and nothing
    more is started.

    Args:
        indexes: What is served; the models are loaded once the application has started.
        access: Its address, and who may use it; by default on loopback, without a token.
        limits: Of requests.
        watch: Keep the indexes up to date.
        on_ready: Called once the models are loaded, in another thread.
    """
    access, limits = access or Access(), limits or Limits()
    jobs = Jobs(indexes, watch=watch)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # a daemon thread: requests are answered meanwhile, and it does not hold up the end
        threading.Thread(target=_warm_up, args=(indexes, on_ready), daemon=True).start()
        if watch:
            try:
                await jobs.start_watching()
            except Exception:  # searches work without it
                logger.exception("the indexes are not kept up to date")
        mcp_sessions = asyncio.create_task(app.state.mcp.run())
        yield
        app.state.stop()
        mcp_sessions.cancel()
        await asyncio.wait([mcp_sessions])
        await jobs.close()
        indexes.close()

    app = FastAPI(
        title="mmsearch",
        version=__version__,
        description="Find photos, texts and sounds, in words or by example. Errors are problem "
        f"documents (RFC 9457, {MEDIA_TYPE}).",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # the pages of FastAPI load scripts from other hosts
        redoc_url=None,
        redirect_slashes=False,  # the redirect would contain the Host header
        default_response_class=AsciiJSONResponse,
        responses=PROBLEM_RESPONSES,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    _set_state(app, indexes, access, limits, jobs)
    for routes in (
        searches.router,
        contents.router,
        media_files.router,
        uploads.router,
        job_routes,
    ):
        app.include_router(routes, prefix=API)
    app.include_router(embeddings.router)
    app.include_router(metrics.router)
    app.include_router(security.router)
    # not in the OpenAPI document: MCP describes its tools itself
    app.router.routes.append(Route("/mcp", app.state.mcp, methods=["POST"]))
    _add_page(app)

    add_problem_handlers(app)
    # the last one added is the first to see a request
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(Security, access=access)
    app.add_middleware(CountRequests, metrics=app.state.metrics)
    _add_components(app)
    return app


def _set_state(
    app: FastAPI, indexes: ServedIndexes, access: Access, limits: Limits, jobs: Jobs
) -> None:
    """Set what the routes use, in `request.app.state`."""
    state = app.state
    state.indexes, state.access, state.limits, state.jobs = indexes, access, limits, jobs
    state.writable = access.loopback  # whether jobs may be started
    state.metrics = Metrics(indexes)
    services = Services.of(indexes, limits, state.metrics.observe)
    state.searches, state.thumbnails = services.searches, services.thumbnails
    state.mcp = McpEndpoint(services)
    workers = partial(
        Workers, waiting=limits.waiting, seconds=limits.seconds, observe=state.metrics.observe
    )
    state.encodes = workers("encode", running=limits.encodes)
    state.waveforms = DerivedFiles(
        FileCache(folder_of("waveforms"), most_bytes=waveforms.MOST_BYTES),
        workers("waveform", running=1),
    )
    state.uploads = Uploads(most_bytes=limits.upload_bytes, max_megapixels=limits.megapixels)

    def stop() -> None:
        jobs.stop()
        for work in (state.searches, state.encodes, state.thumbnails, state.waveforms):
            work.close()

    state.stop = stop


def _warm_up(indexes: ServedIndexes, on_ready: Callable[[], None]) -> None:
    try:
        indexes.warm_up()
    finally:
        indexes.ready = True  # each search reports what failed
        on_ready()


def _add_page(app: FastAPI) -> None:
    static = StaticFiles(directory=STATIC)
    app.mount("/static", static)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """The page."""
        return await static.get_response("index.html", request.scope)

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon(request: Request) -> Response:
        """The icon, which browsers request on their own."""
        return await static.get_response("icon.svg", request.scope)


def _add_components(app: FastAPI) -> None:
    """Add to the OpenAPI document what all operations share: problem documents and the token."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()  # the same one each time
        components = document["components"]
        components["schemas"]["Problem"] = PROBLEM_SCHEMA
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{}, {"token": []}]  # on loopback there may be no token
        return document

    app.openapi = openapi  # type: ignore[method-assign]
