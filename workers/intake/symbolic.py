"""Symbolic sizes: a grammar of integer expressions of our own, printed again in one form. Nothing is evaluated.

Two notations are read, as exporters write both: ``2*s0 + 1`` and ``Add(Mul(Integer(2), Symbol('s0')), Integer(1))``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aslconvert.workers.intake.limits import Limits
from aslconvert.workers.intake.refusal import Refused, shown

_TOKEN = re.compile(
    r"\s*(?:(?P<real>[0-9]+\.[0-9]*(?:e[+-]?[0-9]+)?)|(?P<integer>[0-9]+)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|'(?P<text>[A-Za-z0-9_.+\-]*)'|(?P<sign>//|\*\*|<=|>=|==|!=|[-+*%<>(),=/&|~]))",
    re.ASCII,
)
SYMBOL = re.compile(r"[su][0-9]{1,6}\Z", re.ASCII)
_DIGITS = 19
_POWER = 16
"""The most that exponents on the way to a term multiply to."""

# The least and the most arguments; every one is a function of integers or of what divides them.
FUNCTIONS: dict[str, tuple[int, int]] = {
    "Add": (1, 400), "Mul": (1, 400), "Pow": (2, 2), "Max": (1, 16), "Min": (1, 16),
    "Mod": (2, 2), "PythonMod": (2, 2), "FloorDiv": (2, 2), "CeilDiv": (2, 2), "CleanDiv": (2, 2),
    "ModularIndexing": (3, 3), "IntTrueDiv": (2, 2), "FloatTrueDiv": (2, 2), "ToFloat": (1, 1), "Identity": (1, 1),
    "TruncToInt": (1, 1), "TruncToFloat": (1, 1), "FloorToInt": (1, 1), "CeilToInt": (1, 1), "RoundToInt": (1, 1),
    "Rational": (2, 2), "Where": (3, 3), "Equality": (2, 2), "Unequality": (2, 2), "StrictLessThan": (2, 2),
    "LessThan": (2, 2), "StrictGreaterThan": (2, 2), "GreaterThan": (2, 2), "And": (1, 16), "Or": (1, 16),
    "Not": (1, 1),
}  # fmt: skip
_ALIASES = {"Eq": "Equality", "Ne": "Unequality", "Lt": "StrictLessThan", "Le": "LessThan",
            "Gt": "StrictGreaterThan", "Ge": "GreaterThan"}  # fmt: skip
_COMPARISONS = {"<": "StrictLessThan", "<=": "LessThan", ">": "StrictGreaterThan", ">=": "GreaterThan",
                "==": "Equality", "!=": "Unequality"}  # fmt: skip
_BINARY: tuple[dict[str, str], ...] = ({"+": "Add", "-": "Add"}, {"*": "Mul", "//": "FloorDiv", "%": "Mod"})


@dataclass(frozen=True)
class Expression:
    """``head`` is a function's name, or ``Integer``, ``Real``, ``Symbol``, ``true`` or ``false`` for a leaf."""

    head: str
    text: str = ""
    parts: tuple[Expression, ...] = ()
    is_positive: bool = False
    depth: int = field(default=1, compare=False)

    def printed(self) -> str:
        """In the notation of constructors, which says what a symbol is and leaves nothing to precedence."""
        if self.head == "Integer":
            return f"Integer({self.text})"
        if self.head == "Real":
            return f"Float('{self.text}', precision=53)"
        if self.head == "Symbol":
            return f"Symbol('{self.text}', {'positive=True, ' if self.is_positive else ''}integer=True)"
        if not self.parts:
            return self.head
        return f"{self.head}({', '.join(part.printed() for part in self.parts)})"

    def symbols(self) -> set[str]:
        """The names of all symbols in it."""
        return {self.text} if self.head == "Symbol" else set().union(*(part.symbols() for part in self.parts))


def parse_expression(text: object, *, entry: str, limits: Limits) -> Expression:
    """Raises Refused: ``expression_invalid``, ``expression_too_large``."""
    if not isinstance(text, str) or not text.isascii():
        raise Refused("expression_invalid", f"{shown(text)} is no text in ASCII.", entry=entry)
    if len(text) > limits.expression_chars:
        raise Refused("expression_too_large", f"{len(text)} characters.", entry=entry)
    parser = _Parser(text, entry, limits)
    found = parser.comparison(0)
    if parser.sign or parser.kind:
        raise parser.wrong()
    _bound_powers(found, 1, entry)
    return found


def _bound_powers(node: Expression, power: int, entry: str) -> None:
    if node.head == "Pow":
        exponent = node.parts[1]
        if exponent.head != "Integer" or not 0 <= int(exponent.text) <= _POWER:
            raise Refused("expression_too_large", "A power is no small integer.", entry=entry)
        power *= max(1, int(exponent.text))
        if power > _POWER:
            raise Refused("expression_too_large", f"Powers of more than {_POWER}.", entry=entry)
    for part in node.parts:
        _bound_powers(part, power, entry)


class _Parser:
    """By descent; ``kind`` and ``value`` are the next token, ``sign`` the same where it is punctuation."""

    def __init__(self, text: str, entry: str, limits: Limits) -> None:
        self._text, self._entry, self._limits = text, entry, limits
        self._at = self._terms = 0
        self.kind = self.value = self.sign = ""
        self._next()

    def wrong(self) -> Refused:
        return Refused("expression_invalid", f"{shown(self._text)} is no integer expression.", entry=self._entry)

    def _next(self) -> None:
        rest = self._text[self._at :]
        if not rest.strip():
            self.kind = self.value = self.sign = ""
            return
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            raise self.wrong()
        self._at = found.end()
        self.kind, self.value = found.lastgroup, found[found.lastgroup]
        self.sign = self.value if self.kind == "sign" else ""

    def _take(self, sign: str) -> None:
        if self.sign != sign:
            raise self.wrong()
        self._next()

    def _made(self, head: str, *parts: Expression, text: str = "", is_positive: bool = False) -> Expression:
        self._terms += 1
        if self._terms > self._limits.expression_terms:
            raise Refused("expression_too_large", "It has too many terms.", entry=self._entry)
        depth = 1 + max((part.depth for part in parts), default=0)
        # A chain of divisions has no parentheses and is nested all the same.
        if depth > self._limits.expression_depth:
            raise Refused("expression_too_large", "It is nested too deeply.", entry=self._entry)
        return Expression(head, text, parts, is_positive, depth)

    def comparison(self, depth: int) -> Expression:
        left = self._chain(depth, 0)
        if self.sign in _COMPARISONS:
            head = _COMPARISONS[self.sign]
            self._next()
            return self._made(head, left, self._chain(depth, 0))
        return left

    def _chain(self, depth: int, level: int) -> Expression:
        """Sums at level 0, products at level 1."""
        operand: Callable[[], Expression] = lambda: self._chain(depth, 1) if level == 0 else self._unary(depth)  # noqa: E731
        left = operand()
        while self.sign in _BINARY[level]:
            sign = self.sign
            self._next()
            right = operand()
            if sign == "-":
                right = self._made("Mul", self._made("Integer", text="-1"), right)
            head = _BINARY[level][sign]
            # Long sums stay flat, or their depth would be their length.
            flat = left.parts if left.head == head and head in ("Add", "Mul") else (left,)
            left = self._made(head, *flat, right)
        return left

    def _unary(self, depth: int) -> Expression:
        if depth > self._limits.expression_depth:
            raise Refused("expression_too_large", "It is nested too deeply.", entry=self._entry)
        if self.sign == "-":
            self._next()
            operand = self._unary(depth + 1)
            if operand.head == "Integer" and not operand.text.startswith("-"):
                return self._made("Integer", text=f"-{operand.text}")
            return self._made("Mul", self._made("Integer", text="-1"), operand)
        base = self._primary(depth)
        if self.sign == "**":
            self._next()
            return self._made("Pow", base, self._primary(depth + 1))
        return base

    def _primary(self, depth: int) -> Expression:
        kind, value = self.kind, self.value
        self._next()
        if kind == "integer":
            return self._integer(value)
        if kind == "sign" and value == "(":
            inner = self.comparison(depth + 1)
            self._take(")")
            return inner
        if kind != "name":
            raise self.wrong()
        if SYMBOL.match(value):
            # A bare name is a size, and the exporter's sizes are positive but for those found at run time.
            return self._made("Symbol", text=value, is_positive=value.startswith("s"))
        if value in ("true", "false", "True", "False"):
            return self._made(value.lower())
        self._take("(")
        head = _ALIASES.get(value, value)
        if head == "Integer":
            return self._closed(self._unary(depth + 1), "Integer")
        if head == "Float":
            return self._real()
        if head == "Symbol":
            return self._symbol()
        return self._call(head, depth)

    def _integer(self, digits: str) -> Expression:
        if len(digits) > _DIGITS or int(digits) >= 1 << 63:
            raise Refused("expression_too_large", f"An integer of {len(digits)} digits.", entry=self._entry)
        return self._made("Integer", text=str(int(digits)))

    def _closed(self, inner: Expression, head: str) -> Expression:
        if inner.head != head:
            raise self.wrong()
        self._take(")")
        return inner

    def _call(self, head: str, depth: int) -> Expression:
        if head not in FUNCTIONS:
            raise self.wrong()
        parts = [self.comparison(depth + 1)]
        while self.sign == ",":
            self._next()
            parts.append(self.comparison(depth + 1))
        self._take(")")
        least, most = FUNCTIONS[head]
        is_fraction = head != "Rational" or all(part.head == "Integer" for part in parts)
        if not least <= len(parts) <= most or not is_fraction:
            raise self.wrong()
        return self._made(head, *parts)

    def _keywords(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        while self.sign == ",":
            self._next()
            name = self.value if self.kind == "name" else ""
            self._next()
            self._take("=")
            if not name or name in found or self.kind not in ("name", "integer"):
                raise self.wrong()
            found[name] = self.value
            self._next()
        self._take(")")
        return found

    def _symbol(self) -> Expression:
        name, kind = self.value, self.kind
        self._next()
        keywords = self._keywords()
        known = {"integer": "True", "positive": "True"}
        if kind != "text" or not SYMBOL.match(name) or any(known.get(k) != v for k, v in keywords.items()):
            raise self.wrong()
        return self._made("Symbol", text=name, is_positive="positive" in keywords)

    def _real(self) -> Expression:
        text, kind = self.value, self.kind
        self._next()
        if kind != "text" or not re.fullmatch(r"-?[0-9]{1,20}(\.[0-9]{0,40})?(e[+-]?[0-9]{1,2})?", text):
            raise self.wrong()
        if not set(self._keywords()) <= {"precision", "dps"}:
            raise self.wrong()
        return self._made("Real", text=repr(float(text)))
