"""The application: stores opened at start, domains, security around them, one form of error."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import anyio.to_thread
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from aslconvert.service import document, errors
from aslconvert.service.context import Context
from aslconvert.service.domains import ROUTERS, SERVICES
from aslconvert.service.health.metrics import Counting, Figures
from aslconvert.service.housekeeping import Housekeeping
from aslconvert.service.jobs.hub import Hub
from aslconvert.service.jobs.polling import Polling
from aslconvert.service.keys.audit import Denials
from aslconvert.service.security.callers import LastUses
from aslconvert.service.security.middleware import BodyLimit, Catching, SecurityHeaders
from aslconvert.service.security.rates import Rates
from aslconvert.service.security.secrets import Secrets
from aslconvert.service.settings import Settings, master_secret
from aslconvert.service.version import VERSION


def create_app(settings: Settings) -> FastAPI:
    """The service of a deployment. Starting it brings the database to this version's tables.

    Raises, when it starts:
        InfrastructureError: ``database_unavailable`` and the like.
        UserError: ``bad_blob_place``, ``bad_secret``, ``bad_database_url``, ``database_encoding``.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as stack:
            context = await anyio.to_thread.run_sync(_open, app, settings, stack)
            try:
                async with Hub(context.jobs) as app.state.hub:
                    app.state.figures.watch(context.jobs, app.state.hub)
                    yield
            finally:
                # In a thread, as some of what is left here waits for threads that answer to this loop.
                await anyio.to_thread.run_sync(stack.close)

    app = FastAPI(
        title="aslconvert",
        version=VERSION,
        description="Makes trained CNNs fast: upload a model and data, submit a conversion, download the result.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.rates = Rates(settings.requests_per_minute)
    # Of addresses, for what comes with no key that counts, and for links.
    app.state.strangers = Rates(settings.requests_per_minute)
    app.state.last_uses = LastUses()
    app.state.denials = Denials()
    app.state.figures = Figures()
    errors.install(app)
    app.add_middleware(Polling)
    app.add_middleware(Catching)
    app.add_middleware(BodyLimit, most=settings.body_bytes, most_file=settings.upload_bytes)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["*"],
        )
    app.add_middleware(SecurityHeaders)
    if settings.metrics:
        app.add_middleware(Counting, figures=app.state.figures)
    document.install(app)
    for router in ROUTERS:
        app.include_router(router)
    return app


def _open(app: FastAPI, settings: Settings, stack: ExitStack) -> Context:
    jobs, blobs = stack.enter_context(settings.places.opened())
    context = Context(settings=settings, jobs=jobs, blobs=blobs, secrets=Secrets(master_secret(settings)))
    app.state.context = context
    stack.enter_context(Housekeeping(context, app.state.last_uses, app.state.denials))
    for service in SERVICES:
        stack.enter_context(service(context))
    return context
