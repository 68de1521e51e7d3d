"""Small changes of a source file, one at a time, for :mod:`experiments.mutants`.

A mutant replaces one piece of text by another, so its difference to the file is one line. Kinds:

* ``compare``: each order by the one that differs at equality and by its opposite; ``==``, ``is``
  and ``in`` by their opposites;
* ``arithmetic``: ``+`` and ``-``, ``*`` and ``/`` or ``//``, ``%``, ``**``, ``|``, ``&``; a sign
  is dropped;
* ``constant``: a whole number one up or down, another number doubled, ``True`` and ``False``;
* ``boolean``: ``and`` and ``or``, ``not`` dropped, a bare condition negated;
* ``call``: ``min`` and ``max``, ``any`` and ``all``;
* ``return``: the value by None; ``statement``: an assignment, a call, ``raise``, ``break`` or
  ``continue`` is deleted.

Left alone: text, annotations, decorators, imports and ``__all__``.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("compare", "arithmetic", "constant", "boolean", "call", "return", "statement")
_COMPARE: dict[type[ast.cmpop], tuple[str, ...]] = {
    ast.Lt: ("<=", ">="),
    ast.LtE: ("<", ">"),
    ast.Gt: (">=", "<="),
    ast.GtE: (">", "<"),
    ast.Eq: ("!=",),
    ast.NotEq: ("==",),
    ast.Is: ("is not",),
    ast.IsNot: ("is",),
    ast.In: ("not in",),
    ast.NotIn: ("in",),
}
_BINARY: dict[type[ast.operator], str] = {
    ast.Add: "-",
    ast.Sub: "+",
    ast.Mult: "/",
    ast.Div: "*",
    ast.FloorDiv: "*",
    ast.Mod: "*",
    ast.Pow: "*",
    ast.BitOr: "&",
    ast.BitAnd: "|",
    ast.LShift: ">>",
    ast.RShift: "<<",
    ast.MatMult: "*",
}
_SIGNS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.Div: "/",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.Pow: "**",
    ast.BitOr: "|",
    ast.BitAnd: "&",
    ast.LShift: "<<",
    ast.RShift: ">>",
    ast.MatMult: "@",
}
_ORDERS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Is: "is",
    ast.IsNot: "is not",
    ast.In: "in",
    ast.NotIn: "not in",
}
_CALLS = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of a source.

    Parameters
    ----------
    line : int
        Where it starts, from 1.
    kind : str
        One of :data:`KINDS`.
    old, new : str
        The line before and after, without the indent; a change over several lines shows the first.
    source : str
        The whole changed source.
    """

    line: int
    kind: str
    old: str
    new: str
    source: str


@dataclass(frozen=True, slots=True)
class _Edit:
    kind: str
    line: int
    start: int  # offsets in bytes
    end: int
    text: str


def mutants(source: str) -> list[Mutant]:
    r"""Return all mutants of a source that parse to another tree.

    Parameters
    ----------
    source : str
        Python source.

    Returns
    -------
    list of Mutant
        In the order of the lines.

    Examples
    --------
    >>> [(m.kind, m.new) for m in mutants("x = a < 1\n")]
    [('statement', 'pass'), ('compare', 'x = a <= 1'), ('compare', 'x = a >= 1'),
     ('constant', 'x = a < 2'), ('constant', 'x = a < 0')]
    """
    raw = source.encode()
    plain = ast.dump(ast.parse(source))
    found, seen = [], set[str]()
    for edit in _Finder(raw).edits():
        changed = (raw[: edit.start] + edit.text.encode() + raw[edit.end :]).decode()
        try:
            tree = ast.dump(ast.parse(changed))
        except SyntaxError:
            continue
        if tree == plain or tree in seen:
            continue
        seen.add(tree)
        old, new = (text.splitlines()[edit.line - 1].strip() for text in (source, changed))
        found.append(Mutant(edit.line, edit.kind, old, new, changed))
    return found


class _Finder:
    """Find the edits of a source."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.starts = [0]
        for line in raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """First and last byte of a node."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        first = self.starts[node.lineno - 1] + node.col_offset
        return first, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.expr | ast.stmt) -> str:
        """Source of a node."""
        start, end = self.span(node)
        return self.raw[start:end].decode()

    def whole(self, kind: str, node: ast.expr | ast.stmt, text: str) -> _Edit:
        """Replace a node."""
        return _Edit(kind, node.lineno, *self.span(node), text)

    def between(
        self, kind: str, left: ast.expr, right: ast.expr, old: str, new: str
    ) -> Iterator[_Edit]:
        """Replace an operator between two operands; brackets and comments may stand there too."""
        start, end = self.span(left)[1], self.span(right)[0]
        gap = self.raw[start:end].decode()
        if gap.count(old) == 1:
            at = start + len(gap[: gap.index(old)].encode())
            line = self.raw[:at].count(b"\n") + 1
            yield _Edit(kind, line, at, at + len(old), new)

    def edits(self) -> Iterator[_Edit]:
        """All edits, line by line."""
        yield from sorted(self.visit(ast.parse(self.raw)), key=lambda e: (e.line, e.start, -e.end))

    def visit(self, node: ast.AST) -> Iterator[_Edit]:
        """Edits of a node and of what is in it."""
        if isinstance(node, ast.JoinedStr | ast.Import | ast.ImportFrom):
            return
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return
        yield from self.statement(node)
        yield from self.expression(node)
        skipped = {"annotation", "returns", "decorator_list", "bases", "type_params"}
        for name, value in ast.iter_fields(node):
            for inner in value if isinstance(value, list) else [value]:
                if name not in skipped and isinstance(inner, ast.AST):
                    yield from self.visit(inner)

    def statement(self, node: ast.AST) -> Iterator[_Edit]:
        """Edits of a statement as a whole."""
        deleted = ast.Assign | ast.AugAssign | ast.Raise | ast.Break | ast.Continue | ast.Delete
        documents = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, deleted) or (isinstance(node, ast.Expr) and not documents):
            yield self.whole("statement", node, "pass")
        if isinstance(node, ast.Return) and node.value is not None:
            yield self.whole("return", node, "return None")
        if isinstance(node, ast.If | ast.While | ast.IfExp | ast.Assert):
            yield from self.condition(node.test)
        if isinstance(node, ast.comprehension):
            for test in node.ifs:
                yield from self.condition(test)

    def condition(self, test: ast.expr) -> Iterator[_Edit]:
        """Negate a condition that no other kind does."""
        known = isinstance(test, ast.Compare | ast.BoolOp)
        if not known and not (isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)):
            yield self.whole("boolean", test, f"(not ({self.text(test)}))")

    def expression(self, node: ast.AST) -> Iterator[_Edit]:
        """Edits of an expression."""
        if isinstance(node, ast.Compare):
            operands = [node.left, *node.comparators]
            for left, op, right in zip(operands, node.ops, node.comparators, strict=False):
                for new in _COMPARE[type(op)]:
                    yield from self.between("compare", left, right, _ORDERS[type(op)], new)
        elif isinstance(node, ast.BinOp):
            sign, new = _SIGNS[type(node.op)], _BINARY[type(node.op)]
            yield from self.between("arithmetic", node.left, node.right, sign, new)
            if isinstance(node.op, ast.FloorDiv):
                yield from self.between("arithmetic", node.left, node.right, sign, "/")
        elif isinstance(node, ast.BoolOp):
            old, new = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from self.between("boolean", left, right, old, new)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
            kind = "boolean" if isinstance(node.op, ast.Not) else "arithmetic"
            yield self.whole(kind, node, f"({self.text(node.operand)})")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in _CALLS:
                yield self.whole("call", node.func, _CALLS[node.func.id])
        elif isinstance(node, ast.Constant):
            yield from self.constant(node)

    def constant(self, node: ast.Constant) -> Iterator[_Edit]:
        """Edits of a number or a truth value."""
        value = node.value
        if isinstance(value, bool):
            yield self.whole("constant", node, str(not value))
        elif isinstance(value, int):
            yield self.whole("constant", node, str(value + 1))
            if value > 0:
                yield self.whole("constant", node, str(value - 1))
        elif isinstance(value, float):
            yield self.whole("constant", node, repr(2 * value if value else 1.0))
