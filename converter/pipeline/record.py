"""Puts everything that was found and measured into the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from torch import fx

from aslconvert.converter.cost.counts import count
from aslconvert.converter.cost.device import DeviceProfile
from aslconvert.converter.cost.latency import Latency
from aslconvert.converter.export.onnx_graph import stored_bytes
from aslconvert.converter.ir.graph import attribute, notes_of
from aslconvert.converter.ir.site import ConvSite
from aslconvert.converter.passes.replace_sites import SITE
from aslconvert.converter.pipeline.judge import Score
from aslconvert.converter.pipeline.pruned import Cut
from aslconvert.converter.pipeline.quantised import Quantised
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.survey import Survey
from aslconvert.converter.pipeline.timing import latency_values
from aslconvert.converter.pipeline.variants import Made
from aslconvert.converter.prune.channels import REASONS
from aslconvert.converter.report.schema import (
    Choice,
    DataInfo,
    InputInfo,
    MetricValue,
    ModelInfo,
    Original,
    Precision,
    PrunedGroup,
    Pruning,
    Quantisation,
    Report,
    SiteRecord,
    Variant,
)
from aslconvert.converter.search.costs import NO_GAIN
from aslconvert.converter.search.plan import Plan

FITTED = "fitted"
EXACT = "exact"
DOES_NOT_PAY = "not_worth_it"


def original_record(subject: Subject, metric: MetricValue | None, latency: Mapping[str, Latency]) -> Original:
    """The model as it came in."""
    counts = count(subject.original, subject.example)
    return Original(
        metric=metric, latency=latency_values(latency), params=counts.params, macs=counts.macs, bytes=counts.bytes
    )


def variant_record(
    made: Made,
    subject: Subject,
    score: Score,
    latency: Mapping[str, Latency],
    fastest_ms: float,
    *,
    dominated: bool,
    precision: Precision,
) -> Variant:
    """A healed and measured variant; ``fastest_ms`` is the original's median in its fastest runtime.

    ``precision`` says in which form ``score`` was taken.
    """
    counts = count(made.gm, subject.example)
    left = _rows(made.gm)
    return Variant(
        id=made.planned.id,
        plan={
            name: Choice(action="keep" if rows is None else "asl", rows=None if rows is None else left.get(name, rows))
            for name, rows in made.planned.plan.items()
        },
        metric=score.metric,
        loss=score.change,
        agreement=score.agreement,
        latency=latency_values(latency),
        speedup={runtime: fastest_ms / value.p50_ms for runtime, value in latency.items()},
        params=counts.params,
        macs=counts.macs,
        bytes=counts.bytes,
        dominated=dominated,
        precision=precision,
        predicted_speedup=made.planned.expected,
        predicted_damage=made.planned.damage,
        note=f"healed {made.healing_seconds:.0f} s, {made.healing_steps} steps, "
        f"distillation loss on held-out samples {made.first_loss:.4g} to {made.last_loss:.4g} ({made.kept} weights)",
        pruning=None if made.cut is None else _pruning(made.cut),
    )


def quantised_record(
    item: Quantised,
    subject: Subject,
    score: Score,
    latency: Mapping[str, Latency],
    fastest_ms: float,
    *,
    dominated: bool,
) -> Variant:
    """A variant in 8 bits; sizes and pruning are those of the one it was made of."""
    of = variant_record(item.made, subject, score, latency, fastest_ms, dominated=dominated, precision="int8")
    quantisation = Quantisation(
        of=of.id,
        recipe=item.recipe.name,
        error=item.error,
        plain_error=item.plain_error,
        kept=item.recipe.kept,
        untried=item.untried,
    )
    return of.model_copy(
        update={
            "id": item.id,
            "bytes": stored_bytes(item.data),
            "predicted_speedup": None,
            "note": of.note if item.made.healing_steps else "",
            "quantisation": quantisation,
        }
    )


def _pruning(cut: Cut) -> Pruning:
    report = cut.report
    return Pruning(
        share=report.ratio,
        importance=report.importance,
        groups=tuple(
            PrunedGroup(
                layer=group.layer,
                channels_before=group.channels,
                channels_after=group.channels - group.pruned,
                reason=group.reason,
                message=" ".join(filter(None, (REASONS.get(group.reason, ""), group.detail))),
            )
            for group in report.groups
        ),
        params_before=report.params_before,
        params_after=report.params_after,
        macs_before=report.macs_before,
        macs_after=report.macs_after,
        refitted=cut.refitted,
        loss=cut.loss,
        loss_refitted=cut.loss_refitted,
    )


def _rows(gm: fx.GraphModule) -> dict[str, int]:
    """Rows by site, as they are in the graph."""
    return {node.meta[SITE]: len(attribute(gm, node.args[1].target)) for node in gm.graph.nodes if SITE in node.meta}


def site_records(
    subject: Subject, plan: Plan, made: Made | None, found: Survey, *, int8: bool = False
) -> tuple[SiteRecord, ...]:
    """Every convolution and what the chosen variant does with it; of one in 8 bits no time is known by site."""
    records = [_site(site, plan.get(site.name), made, found) for site in subject.sites]
    if int8:
        records = [item.model_copy(update={"latency_after_ms": None}) for item in records]
    records += [
        SiteRecord(
            name=refusal.name,
            kind="conv" if refusal.site is None else _kind(refusal.site),
            action="keep",
            reason=refusal.code,
            message=refusal.message,
        )
        for refusal in subject.refusals
    ]
    return tuple(records)


def _kind(site: ConvSite) -> str:
    return f"{site.op} {'x'.join(map(str, site.geometry.kernel))}"


def _site(site: ConvSite, rows: int | None, made: Made | None, found: Survey) -> SiteRecord:
    kind, costs = _kind(site), found.costs[site.name]
    before = costs[None]
    pruned = made is not None and made.cut is not None
    if rows is None:
        gated = found.kept.get(site.name)
        # What a convolution of fewer channels takes was not measured by itself.
        after = None if pruned else before
        merely = made is not None and not any(made.planned.plan.values())
        return SiteRecord(
            name=site.name,
            kind=kind,
            action="keep",
            reason=DOES_NOT_PAY if gated is None else NO_GAIN,
            message=(
                f"The original{' merely pruned' if pruned else ''}." if merely else "The plan gains more elsewhere."
            )
            if gated is None
            else gated,
            latency_before_ms=before,
            latency_after_ms=after,
        )
    fit = made.fits.get(site.name) if made is not None else None
    exact = rows >= site.exact_rows
    return SiteRecord(
        name=site.name,
        kind=kind,
        action="asl",
        reason=EXACT if exact else FITTED,
        message="All taps as rows: the convolution itself, on the fused kernel." if exact else "",
        rows=rows if made is None else _rows(made.gm).get(site.name, rows),
        shifts=() if fit is None or made is None else _shifts(made.gm, site),
        fit_error=None if fit is None else fit.error,
        latency_before_ms=before,
        latency_after_ms=None if pruned else costs.get(rows),
    )


def _shifts(gm: fx.GraphModule, site: ConvSite) -> tuple[tuple[float, ...], ...]:
    """The healed shifts relative to the kernel's centre, [K, D] in pixels."""
    node = next(node for node in gm.graph.nodes if node.meta.get(SITE) == site.name)
    shift = attribute(gm, node.args[1].target).detach()
    centre = site.gather.tap_offsets().mean(0)
    return tuple(tuple(round(float(v), 4) for v in row) for row in shift - centre)


def assemble(
    subject: Subject,
    *,
    device: DeviceProfile,
    original: Original,
    sites: tuple[SiteRecord, ...],
    variants: Sequence[Variant],
    chosen: str | None,
    artifacts: Sequence[Any],
    unavailable: Mapping[str, str],
    timings: Mapping[str, float],
    seed: int,
) -> Report:
    """The whole report."""
    data = subject.data
    return Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        model=ModelInfo(
            name=subject.name,
            source=subject.source,
            sha256=subject.sha256,
            inputs=tuple(
                InputInfo(name=spec.name, shape=spec.shape, dtype=str(spec.dtype).removeprefix("torch."))
                for spec in subject.specs
            ),
            notes=notes_of(subject.gm),
        ),
        device=device,
        latency_inputs=tuple(tuple(x.shape) for x in subject.example),
        data=DataInfo(
            source=data.source,
            samples=data.samples_by_split,
            groups=data.groups_by_split,
            preprocessing=data.preprocessing,
            notes=data.notes,
        ),
        seeds={"seed": seed},
        versions={**device.versions, "aslconvert": _version()},
        original=original,
        sites=sites,
        variants=tuple(variants),
        chosen=chosen,
        artifacts=tuple(artifacts),
        runtimes_unavailable=dict(unavailable),
        timings={stage: round(seconds, 2) for stage, seconds in timings.items()},
    )


def _version() -> str:
    try:
        return metadata.version("aslconvert")
    except metadata.PackageNotFoundError:
        return "unpackaged"
