"""Small mistakes, one at a time, made mechanically in Python source: what experiments.mutate judges."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

OPPOSITE: dict[type, tuple[type, ...]] = {
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,),
    ast.FloorDiv: (ast.Mult,), ast.Pow: (ast.Mult,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.GtE), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.LtE),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
RENAMED = {"min": "max", "max": "min", "minimum": "maximum", "argmax": "argmin", "any": "all", "all": "any"}
DROPPED = {"normalized", "positive_part", "exact_positive_part", "clamp", "without", "clone"}
"""Calls that are replaced with what they are applied to."""
WEIGHTED = {"positive_part": 4, "exact_positive_part": 3}
"""Calls whose first two arguments may be confused and whose last one, the weight, forgotten; number of arguments."""
OTHER = {"p": ("q", "q_x", "one"), "q": ("p",), "q_x": ("p",), "one": ("p",)}
"""Target and draft go by these names in the rules."""
STREAMS = ("DRAFT", "ACCEPT", "RESIDUAL", "BONUS")
GENERIC = {"list", "dict", "tuple", "Callable", "Sequence"}
SKIPPED = {"annotation", "returns", "decorator_list"}


@dataclass(frozen=True)
class Mutant:
    """One mistake.

    Args:
        file: its name.
        line: from 1.
        function: the innermost one, with its class.
        before: first line of the statement.
        after: the same, mutated.
        source: the whole mutated file.
    """

    file: str
    line: int
    function: str
    before: str
    after: str
    source: str

    @property
    def key(self) -> str:
        """A description that does not change when lines move."""
        return f"{self.file} {self.function}: `{self.before}` → `{self.after}`"


@dataclass(frozen=True)
class _Place:
    """Where the walk is: the innermost statement and function, and what is known there."""

    statement: ast.AST
    function: str = ""
    names: Counter[str] = field(default_factory=Counter)
    nested: bool = False
    index: bool = False

    def inside(self, parent: ast.AST, name: str, child: ast.AST) -> _Place:
        place = self
        if isinstance(child, ast.stmt):
            nested = self.nested or isinstance(parent, (ast.For, ast.While, ast.If))
            place = replace(place, statement=child, nested=nested)
        if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
            place = replace(place, function=f"{self.function}.{child.name}".lstrip("."), nested=False)
        if isinstance(child, ast.FunctionDef):
            place = replace(place, names=self.names + _bound(child))
        return replace(
            place, index=isinstance(parent, ast.Slice) or (isinstance(parent, ast.Subscript) and name == "slice")
        )


def mutants(source: str, file: str) -> list[Mutant]:
    """Every mutant of `source`, in the order of the text; two that read the same are told apart by a number."""
    tree = ast.parse(source)
    found: dict[str, Mutant] = {}
    for parent, name, position, child, place in _walk(tree, _Place(tree)):
        before = _head(place.statement)
        for new in _variants(child, parent, place):
            _put(parent, name, position, new)
            after = "pass" if new is not child and isinstance(new, ast.Pass) else _head(place.statement)
            text = ast.unparse(tree)
            _put(parent, name, position, child)
            line = getattr(child, "lineno", getattr(place.statement, "lineno", 0))
            found.setdefault(text, Mutant(file, line, place.function, before, after, text))
    return _numbered(found.values())


def _numbered(found: Iterator[Mutant]) -> list[Mutant]:
    seen: Counter[str] = Counter()
    numbered = []
    for mutant in sorted(found, key=lambda m: m.line):
        seen[mutant.key] += 1
        again = seen[mutant.key]
        numbered.append(replace(mutant, after=f"{mutant.after} #{again}") if again > 1 else mutant)
    return numbered


def _walk(parent: ast.AST, place: _Place) -> Iterator[tuple[ast.AST, str, int | None, ast.AST, _Place]]:
    """(parent, field, position in a list or None, child, place) of all that may be mutated."""
    for name, value in ast.iter_fields(parent):
        for position, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if name in SKIPPED or not isinstance(child, ast.AST) or _inert(child):
                continue
            there = place.inside(parent, name, child)
            yield parent, name, position, child, there
            yield from _walk(child, there)


def _inert(node: ast.AST) -> bool:
    """Docstrings, messages, imports, types, and `strict=`: a change there changes no result."""
    match node:
        case ast.Expr(value=ast.Constant()) | ast.Raise() | ast.Import() | ast.ImportFrom() | ast.JoinedStr():
            return True
        case ast.Subscript(value=ast.Name(id=name)):
            return name in GENERIC
        case ast.keyword(arg="strict") | ast.AnnAssign(value=None):
            return True
    return False


def _variants(node: ast.AST, parent: ast.AST, place: _Place) -> Iterator[ast.AST]:
    """What may stand in the place of `node`."""
    if isinstance(node, ast.expr):
        yield from _expressions(node, place)
        test = isinstance(parent, (ast.If, ast.IfExp, ast.While)) and parent.test is node
        if test and not isinstance(node, (ast.Compare, ast.Constant, ast.UnaryOp, ast.BoolOp)):
            yield ast.UnaryOp(ast.Not(), node)
        if place.index and not isinstance(node, (ast.Slice, ast.Tuple)):
            yield from (ast.BinOp(node, change(), ast.Constant(1)) for change in (ast.Add, ast.Sub))
    for operator in OPPOSITE.get(type(node), ()):
        yield operator()
    if place.function and place.statement is node and (_is_effect(node) or (place.nested and _deletable(node, place))):
        yield ast.Pass()


def _expressions(node: ast.expr, place: _Place) -> Iterator[ast.expr]:
    match node:
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)) if not place.index:
            yield ast.Constant(value + 1 if value != 1 else value - 1)
            if value == 1:
                yield ast.Constant(value + 1)
        case ast.Name(id="ONE" | "ZERO" as name):
            yield ast.Constant(int(name == "ZERO"))
        case ast.Name(id=name, ctx=ast.Load()) if name in OTHER:
            yield from (ast.Name(other) for other in OTHER[name] if other in place.names)
        case ast.Attribute(value=ast.Name(id="draft"), attr="p" | "q" as name):
            yield ast.Attribute(node.value, OTHER[name][0])
        case ast.Attribute(value=ast.Name(id="Stream"), attr=name):
            yield from (ast.Attribute(node.value, other) for other in STREAMS if other != name)
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp(op=ast.Div()):
            yield node.left
        case ast.Call():
            yield from _calls(node)


def _calls(node: ast.Call) -> Iterator[ast.expr]:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in RENAMED:
        other = RENAMED[name]
        renamed = ast.Attribute(node.func.value, other) if isinstance(node.func, ast.Attribute) else ast.Name(other)
        yield ast.Call(renamed, node.args, node.keywords)
    if name in DROPPED:
        kept = node.args[0] if node.args else node.func.value  # type: ignore[attr-defined]
        yield ast.Call(ast.Name("tuple"), [kept], []) if isinstance(kept, ast.GeneratorExp) else kept
    if name in WEIGHTED:
        first, second, *others = node.args
        yield ast.Call(node.func, [second, first, *others], [])
        if len(node.args) == WEIGHTED[name]:
            yield ast.Call(node.func, node.args[:-1], [])


def _is_effect(node: ast.AST) -> bool:
    """Statements that change something that outlives them, and no variable."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call)
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return bool(targets) and all(isinstance(target, (ast.Attribute, ast.Subscript)) for target in targets)


def _deletable(node: ast.AST, place: _Place) -> bool:
    """Statements without which the program still means something: no variable is left without a value."""
    if isinstance(node, (ast.Continue, ast.Break, ast.Return, ast.AugAssign)):
        return True
    if isinstance(node, ast.Expr):
        return not isinstance(node.value, (ast.Yield, ast.YieldFrom))
    targets = node.targets if isinstance(node, ast.Assign) else []
    return bool(targets) and all(not isinstance(t, ast.Name) or place.names[t.id] > 1 for t in targets)


def _bound(function: ast.AST) -> Counter[str]:
    """How often each name gets a value in the function."""
    stored = (n.id for n in ast.walk(function) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store))
    return Counter([*stored, *(n.arg for n in ast.walk(function) if isinstance(n, ast.arg))])


def _put(parent: ast.AST, field: str, position: int | None, new: ast.AST) -> None:
    if position is None:
        setattr(parent, field, new)
    else:
        getattr(parent, field)[position] = new


def _head(statement: ast.AST) -> str:
    return ast.unparse(statement).partition("\n")[0]
