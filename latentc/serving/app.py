"""The HTTP application: every API, around one service."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.exceptions import HTTPException

import latentc
from latentc.serving import automatic1111, jobs_api, openai_images
from latentc.serving.api_error import ApiError
from latentc.serving.auth import Keys
from latentc.serving.request_guard import App, Message, RequestGuard
from latentc.serving.request_log import log
from latentc.serving.service import Service

_API_PATHS = ("/v1/", "/sdapi/", "/metrics", "/openapi.json")


def make_app(
    service: Service,
    keys: Keys | None,
    loopback_only: bool,
    page: bool = False,
    public_url: str = "",
    on_failure: Callable[[Exception], None] = lambda error: None,
) -> App:
    """The application.

    Args:
        keys: None where everybody may ask.
        loopback_only: whether it listens for this machine alone.
        page: whether there is one at `/`, which needs gradio.
        public_url: where browsers reach it, if a proxy stands before it.
        on_failure: called where the service ends by itself: a model cannot be opened.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        running = asyncio.create_task(_run(service, on_failure))
        try:
            yield
        finally:
            await service.stop()
            await running

    # No pages of its own: those would fetch their scripts from elsewhere.
    app = FastAPI(
        title="latentc", version=latentc.__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.include_router(openai_images.router(service))
    app.include_router(jobs_api.router(service))
    app.include_router(automatic1111.router(service))

    @app.get("/healthz")
    async def healthy() -> Any:
        return {"status": "ok"}

    @app.get("/readyz", response_model=None)
    async def ready() -> Response:
        return JSONResponse({"ready": service.ready}, 200 if service.ready else 503)

    @app.get("/metrics", response_model=None)
    async def metrics() -> Response:
        return PlainTextResponse(
            service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
        )

    async def refused(request: Request, error: Any) -> Response:
        return _response(request.scope, error)

    async def missing(request: Request, error: Any) -> Response:
        path = request.url.path[:200]
        words = {404: f"There is no '{path}' here.", 405: f"'{path}' does not take {request.method[:10]}."}
        answer = ApiError(
            error.status_code, words.get(error.status_code, str(error.detail)), code="not_there"
        )
        return _response(request.scope, answer)

    async def failed(request: Request, error: Any) -> Response:
        log("error", "bug", reason=f"{type(error).__name__}: {error}")
        return _response(request.scope, ApiError(500, "The server failed; its log says how.", code="failed"))

    if page:
        from latentc.serving.page import mount

        mount(app, service, public_url)
    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(HTTPException, missing)
    app.add_exception_handler(Exception, failed)
    refuse = functools.partial(_response, page=page)
    return RequestGuard(
        app,
        refuse,
        keys,
        loopback_only,
        service.limits,
        service.metrics,
        urlsplit(public_url).netloc.lower(),
    )


async def _run(service: Service, on_failure: Callable[[Exception], None]) -> None:
    try:
        await service.run()
    except Exception as error:
        on_failure(error)


def _response(scope: Message, error: ApiError, page: bool = False) -> JSONResponse:
    """An error in the form of the API that was asked; of a page, one at which a browser asks for the key."""
    old = scope["path"].startswith("/sdapi/")
    headers = error.headers
    if page and error.status == 401 and not scope["path"].startswith(_API_PATHS):
        headers["WWW-Authenticate"] = 'Basic realm="The password is the API key", charset="UTF-8"'
    return JSONResponse(error.automatic1111() if old else error.openai(), error.status, headers)
