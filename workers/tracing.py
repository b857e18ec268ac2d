"""Traces over OpenTelemetry, where the environment names a collector: a request that submits, attempts, their stages.

Nothing of OpenTelemetry is imported before `set_up_tracing` finds that they are wanted, and without it all here does
nothing. The request's context travels as a W3C ``traceparent`` in the job's payload, which outlives both processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from aslconvert.workers.errors import InfrastructureError, UserError
from aslconvert.workers.jobs import Claim
from aslconvert.workers.metrics import STAGE_NAMES
from aslconvert.workers.policy import Outcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

TRACEPARENT: Final = "traceparent"
"""Of a job's payload; an engine that is handed it ignores it."""

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_BAD = frozenset({Outcome.FAILED, Outcome.RETRIED, Outcome.LOST})

_tracer: Tracer | None = None


def set_up_tracing(service: str) -> TracerProvider | None:
    """Send spans of this process to the collector that the environment names; None where it names none.

    All else is set by the standard variables too (``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``,
    ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS``, ...); ``service`` is the name where they give none. What
    waits when the process ends in good order is sent then; a collector that is away costs spans and nothing else.

    Raises:
        InfrastructureError: ``tracing_missing``, when the packages are not installed.
        UserError: ``tracing_protocol``, when another one than OTLP over HTTP is asked for.
    """
    global _tracer  # one a process, as the metrics are
    if not any(os.environ.get(name) for name in ENDPOINTS) or os.environ.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    protocol = next((os.environ[name] for name in PROTOCOLS if os.environ.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        told = f"Traces are sent by http/protobuf, and not by {protocol}, as the environment has it."
        raise UserError("tracing_protocol", told, hint=f"Unset {PROTOCOLS[1]}, and name the collector's HTTP port.")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        told = f"The environment asks for traces ({ENDPOINTS[0]}), which need {error.name}."
        raise InfrastructureError("tracing_missing", told, hint="pip install 'aslconvert[otel]'") from error
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    provider = TracerProvider(resource=Resource.create({} if named else {"service.name": service}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    # Not the process's default: libraries that would trace themselves there were not asked to.
    _tracer = provider.get_tracer("aslconvert")
    return provider


@contextmanager
def request_span(name: str, route: str, headers: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """A request that makes a job; the caller's ``traceparent`` among ``headers`` is its parent.

    What it yields belongs into the payload of the job: nothing, or the context that its attempts join.
    """
    if _tracer is None:
        yield {}
        return
    from opentelemetry.trace import SpanKind

    parent = _extracted(headers)
    attributes = {"http.request.method": name.partition(" ")[0], "http.route": route}
    with _tracer.start_as_current_span(name, context=parent, kind=SpanKind.SERVER, attributes=attributes) as span:
        yield _injected(span)


class AttemptTrace:
    """The span of an attempt, and of the stage that it is in; both end with `ended`."""

    def __init__(self, claim: Claim) -> None:
        self._span: Span | None = None
        self._stage: Span | None = None
        if _tracer is None:
            return
        from opentelemetry.trace import SpanKind

        job = claim.job
        self._span = _tracer.start_span(
            f"attempt {job.kind.value}",
            context=_extracted({TRACEPARENT: str(job.payload.get(TRACEPARENT) or "")}),
            kind=SpanKind.CONSUMER,
            attributes={
                "aslconvert.job.id": job.id,
                "aslconvert.attempt": claim.token,
                "aslconvert.queue": job.queue.value,
                "aslconvert.worker": claim.worker,
            },
        )

    def stage(self, name: str) -> None:
        """A stage begins, and the one before ends. The span has the first word for a name, as the metrics do."""
        if _tracer is None or self._span is None:
            return
        from opentelemetry.trace import set_span_in_context

        self._end_stage()
        self._stage = _tracer.start_span(
            STAGE_NAMES.bounded(name),
            context=set_span_in_context(self._span),
            attributes={"aslconvert.stage": name[:200]},
        )

    def ended(self, outcome: Outcome, code: str) -> None:
        """It is over; ``code`` says why, where that was a problem."""
        self._end_stage()
        if self._span is None:
            return
        from opentelemetry.trace import Status, StatusCode

        self._span.set_attributes({"aslconvert.outcome": outcome.value, "aslconvert.code": code})
        if outcome in _BAD:
            self._span.set_status(Status(StatusCode.ERROR, code))
        self._span.end()

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._stage.end()
            self._stage = None


def _extracted(headers: Mapping[str, str]) -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    # Whatever a caller sends as one: what is no traceparent is as good as none.
    return TraceContextTextMapPropagator().extract({TRACEPARENT: headers.get(TRACEPARENT, "")})


def _injected(span: Span) -> dict[str, str]:
    from opentelemetry.trace import set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier, set_span_in_context(span))
    return {name: value for name, value in carrier.items() if name == TRACEPARENT}
