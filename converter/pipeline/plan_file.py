"""``plan.json``: what measuring and the clock decided in a run, so that another run can repeat it.

Latencies decide which plans are tried and which variant is chosen, and time decides how long each is healed. A run that
is given the file takes all of it from there; the rest follows from model, data, seed and threads alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from aslconvert.converter.errors import UsageError
from aslconvert.converter.export.recipes import Recipe
from aslconvert.converter.options import ConvertOptions
from aslconvert.converter.pipeline.planned import Planned
from aslconvert.converter.pipeline.quantised import Quantised, int8_records, read_int8_records
from aslconvert.converter.pipeline.subject import Subject
from aslconvert.converter.pipeline.survey import Survey, read_survey, survey_record
from aslconvert.converter.pipeline.variants import Made

PLAN = "plan.json"
VERSION = 1


@dataclass(frozen=True)
class Decided:
    """The plans with the survey they came from (without importance), the healing steps by variant, and the choice.

    ``packed`` says that the chosen variant was faster in channels_last; ``int8`` has the recipes of those in 8 bits.
    """

    plans: list[Planned]
    survey: Survey
    steps: dict[str, int]
    chosen: str
    packed: bool
    int8: dict[str, Recipe] = field(default_factory=dict)


def identity_of(subject: Subject, options: ConvertOptions) -> str:
    """What a plan belongs to: the model, the data, and the options that its sites' fits and costs derive from."""
    parts = f"{subject.fingerprint}|{options.seed}|{options.keep}|{options.heal_crop}"
    if options.allow:
        parts += f"|{options.allow}"
    if options.max_params_mb is not None or options.max_macs is not None:
        parts += f"|{options.max_params_mb}|{options.max_macs}"
    return hashlib.sha256(parts.encode()).hexdigest()


def plan_bytes(
    made: Sequence[Made],
    found: Survey,
    *,
    chosen: str,
    packed: bool,
    identity: str,
    quantised: Sequence[Quantised] = (),
) -> bytes:
    """The text of ``plan.json``; ``identity`` says what model, data and seed it belongs to."""
    record = {
        "version": VERSION,
        "for": identity,
        "chosen": chosen,
        "packed": packed,
        "plans": [
            {**asdict(variant.planned), "steps": max(variant.steps_asked or variant.healing_steps, 1)}
            for variant in made
        ],
        **survey_record(found),
    }
    if quantised:
        record["int8"] = int8_records(quantised)
    return (json.dumps(record, indent=1) + "\n").encode()


def read_plan(path: Path, *, identity: str) -> Decided:
    """What the file at ``path`` decided.

    Raises:
        UsageError: ``plan_missing``, ``plan_invalid``, or ``plan_mismatch`` when it was made for another model, other
            data, another seed, another --allow or other limits.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise ValueError(f"version {record['version']} is not known")
        rows = [dict(row) for row in record["plans"]]
        steps = {row["id"]: int(row.pop("steps")) for row in rows}
        decided = Decided(
            [Planned(**row) for row in rows],
            read_survey(record),
            steps,
            str(record["chosen"]),
            bool(record["packed"]),
            read_int8_records(record.get("int8", [])),
        )
        made_for = str(record["for"])
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError("plan_missing", f"The plan '{path}' cannot be read: {error}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            "plan_invalid", f"'{path}' is no plan: {error!r}.", hint=f"Give the {PLAN} that a conversion wrote."
        ) from error
    if made_for != identity:
        raise UsageError(
            "plan_mismatch",
            f"The plan '{path}' was made for another model, other data, another seed, other variants or limits.",
            hint="Give the same ones, or leave --plan away.",
        )
    if decided.chosen not in {*steps, *decided.int8} or min(steps.values(), default=1) < 1:
        raise UsageError("plan_invalid", f"'{path}' names no variant that it describes, or one without a step.")
    return decided
