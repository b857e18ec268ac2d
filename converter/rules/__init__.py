"""Rewrite rules, one a file: each says of a conv site whether it applies, and if not, why."""

from __future__ import annotations

from dataclasses import replace

from aslconvert.converter.ir.site import ConvSite, Refusal
from aslconvert.converter.rules import dense, depthwise, grouped, transposed

RULES = (transposed, depthwise, grouped, dense)
"""Each has ``claims(site)``: the site is of its kind, and ``match(site)``: the reason to keep it, or the groups that
its rows are mixed in. The first that claims a site decides."""


def judge(site: ConvSite) -> ConvSite | Refusal:
    """The site with its ``row_groups``, or the reason why it is kept."""
    rule = next(rule for rule in RULES if rule.claims(site))
    answer = rule.match(site)
    if isinstance(answer, int):
        return replace(site, row_groups=answer)
    code, message = answer
    return Refusal(site.name, site.node, code, message, site=site)
