"""docs/zoo.md from the record of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

HEAD = """# The zoo

`make zoo` takes each architecture below through the whole engine and writes `out/zoo/zoo.json` and this page.

For each: build it with random weights and batch-norm statistics that are neither 0 and 1 nor those of its activations;
export it with as many dynamic sizes as torch keeps; find its convolutions; rewrite them with all taps as rows, as they
are and lowered to standard operators, and compare with the original in float64 and float32; fit one row a channel on
a few smooth random images; write the artifacts; reload each in a fresh process without the package and compare it with
the fitted form, also at another batch, height and width where the original takes them. Dynamic ranges and tensor names
must be the original's. Every convolution that a forward pass runs must have its line, converted or kept with a code of
[reasons.md](reasons.md). The fitted form must differ visibly from the original: a comparison that sees no difference
there would see no error either.

Exactness is the float64 column: rounding is far below the allowed {exact_double:g} there, and only a wrong rewrite is
above it. In float32 two right forms differ by what each of them rounds off, so {exact:g} is allowed or, where that is
more, {roundings} times the original's own rounding: how far it is, with batch norms as they are or folded, from itself
in float64.

Images are small and nothing is trained: this shows that the engine is right, and nothing on speed or accuracy.

{summary}

| architecture | by | status | convolutions | converted | kept | float64 | float32 | rounding | new sizes | {kinds} |
|---|---|---|---|---|---|---|---|---|---|{rules}|
"""

FEET = """
Differences are relative to the largest output, those of artifacts absolute with the allowed one in brackets. New
sizes: `N` a new batch, `L`, `HW` or `THW` new spatial sizes, `-` where the network itself fixes them.
"""

AXES = {3: "L", 4: "HW", 5: "THW"}


def page(record: dict[str, Any], *, defined: Sequence[str] = (), **limits: float) -> str:
    """The page of ``record``, as zoo.json holds it; ``limits`` are the ones that the text names.

    Of the architectures ``defined`` those that are not in the record are named: a page of a run that was broken off.
    """
    models = record["models"]
    kinds = list(dict.fromkeys(kind for model in models for kind in model["artifacts"]))
    counts = Counter(model["status"] for model in models)
    converted, sites = (sum(model[key] for model in models) for key in ("converted", "sites"))
    summary = (
        f"{len(models)} architectures: {counts['ok']} ok, {counts['refused']} refused, {counts['failed']} failed; "
        f"{converted} of {sites} convolutions converted "
        f"(torch {record['torch']}, float32, {record['seconds']:.0f} s of one core)."
    )
    missing = [name for name in defined if name not in {model["name"] for model in models}]
    if missing:
        summary += f"\n\n**Not yet run**: {', '.join(missing)}."
    text = HEAD.format(**limits, summary=summary, kinds=" | ".join(kinds), rules="|".join("---" for _ in kinds))
    text += "".join(_row(model, kinds) for model in models) + FEET
    notes = [f"- {model['name']}: {model['note']}" for model in models if model["note"]]
    told = [f"- {model['name']}, {model['status']}: {model['reason']}" for model in models if model["reason"]]
    if told:
        text += "\n## Refused or failed\n\n" + "\n".join(told) + "\n"
    if notes:
        text += "\n## Built otherwise than by default\n\n" + "\n".join(notes) + "\n"
    return text


def _row(model: dict[str, Any], kinds: list[str]) -> str:
    kept = ", ".join(f"{count} {code}" for code, count in model["kept"].items())
    differences = [_number(model[key]) for key in ("exactness_float64", "exactness", "rounding")]
    cells = [
        model["name"], model["origin"], model["status"], model["sites"], model["converted"], kept,
        *differences, _sizes(model), *(_artifact(model, kind) for kind in kinds),
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |\n"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _sizes(model: dict[str, Any]) -> str:
    if len(model["shapes"]) < 2:
        return "-" if model["status"] == "ok" else ""
    first, *others = (case[0] for case in model["shapes"])
    changed = {axis for other in others for axis, size in enumerate(other) if size != first[axis]}
    letters = ("N" if 0 in changed else "", AXES[len(first)] if changed - {0} else "")
    return " ".join(filter(None, letters))


def _artifact(model: dict[str, Any], kind: str) -> str:
    if kind not in model["artifacts"]:
        return ""
    return f"{model['artifacts'][kind]:.1e} ({model['tolerances'][kind]:.0e})"
