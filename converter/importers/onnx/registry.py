"""The table of known operators: a rule turns one call into torch operations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aslconvert.converter.importers.onnx.call import Call
from aslconvert.converter.importers.onnx.file import NEWEST, OLDEST, STANDARD_DOMAINS, Node
from aslconvert.converter.importers.onnx.refusals import unsupported_attribute, unsupported_operator
from aslconvert.converter.importers.onnx.values import Value

Result = Value | list[Value]
RuleFunction = Callable[[Call], Result]


@dataclass(frozen=True)
class Rule:
    """What computes an operator, the attributes it understands, and the first opset that has it."""

    function: RuleFunction
    attributes: frozenset[str]
    since: int


_RULES: dict[str, Rule] = {}


def operator(*names: str, attributes: str = "", since: int = OLDEST) -> Callable[[RuleFunction], RuleFunction]:
    """Register a rule for the operators ``names``; ``attributes`` are the names it understands, separated by blanks."""

    def register(function: RuleFunction) -> RuleFunction:
        for name in names:
            _RULES[name] = Rule(function, frozenset(attributes.split()), since)
        return function

    return register


def known_operators() -> list[str]:
    """The names of all operators that are read."""
    return sorted(_RULES)


def rule_of(node: Node, opset: int) -> Rule:
    """The rule of ``node``. Raises ModelRefused (``unsupported_operator``, ``unsupported_attribute``)."""
    rule = _RULES.get(node.op) if node.domain in STANDARD_DOMAINS else None
    if rule is None or not rule.since <= opset <= NEWEST:
        raise unsupported_operator(node.where)
    if unknown := sorted(set(node.attributes) - rule.attributes):
        raise unsupported_attribute(node.where, f"the attribute '{unknown[0]}'")
    return rule
