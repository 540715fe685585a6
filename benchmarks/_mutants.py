"""Small faults that a test should notice, made by replacing one node of a module's syntax tree.

Left out are nodes that change no result: docstrings, strings, messages of exceptions, type hints,
decorators, imports, ``__repr__``; and numbers that a module names in capitals, which are measured
choices and not logic.
"""

from __future__ import annotations

import ast
import copy
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

COMPARED: dict[type, tuple[type, ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
COMPUTED: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
PARTNERS = [
    ("min", "max"),
    ("amin", "amax"),
    ("minimum", "maximum"),
    ("any", "all"),
    ("floor", "ceil"),
    ("zeros", "ones"),
]
RENAMED = dict(PARTNERS) | {second: first for first, second in PARTNERS}

SKIPPED_FIELDS = {"annotation", "returns", "decorator_list", "bases", "type_params"}
SKIPPED_FUNCTIONS = {"__repr__", "__str__"}
SKIPPED_CALLS = {"isinstance", "issubclass", "getattr", "cast", "field"}
SKIPPED_KEYWORDS = {"strict", "name", "encoding"}
SKIPPED_NODES = (ast.Import, ast.ImportFrom, ast.JoinedStr, ast.Assert, ast.Global)
NUMERIC = ("Tensor", "Matrix", "NDArray", "float", "int")
"""A returned value is negated where its hint begins with one of these."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Args:
        module: dotted name. file: its path.
        scope: the function it lies in; empty at the top of a module or class.
        line: of the node. lines: first and last line of the statement that runs it.
        kind: of fault. before, after: source of the node.
        number: among all mutants of its module.
    """

    module: str
    file: str
    scope: str
    line: int
    lines: tuple[int, int]
    kind: str
    before: str
    after: str
    number: int

    @property
    def where(self) -> str:
        """Module and function: lines move, names stay."""
        return f"{self.module}.{self.scope}" if self.scope else self.module


@dataclass(frozen=True)
class _Place:
    """Where a node hangs in the tree, and what is known of its surroundings."""

    parent: Any
    name: str
    index: int | None
    scope: str = ""
    returns: str = ""
    lines: tuple[int, int] = (0, 0)
    bound: set[str] = field(default_factory=set)

    def put(self, node: ast.AST) -> None:
        """Replace the node."""
        if self.index is None:
            setattr(self.parent, self.name, node)
        else:
            getattr(self.parent, self.name)[self.index] = node


def mutants(module: str, file: Path) -> list[Mutant]:
    """All mutants of a module, always in the same order."""
    found = []
    for number, (place, kind, old, new) in enumerate(_edits(ast.parse(file.read_text("utf-8")))):
        line, before = getattr(old, "lineno", place.lines[0]), ast.unparse(old)
        found.append(
            Mutant(
                *(module, str(file), place.scope, line, place.lines, kind),
                *(before, ast.unparse(new), number),
            )
        )
    return found


def mutated(mutant: Mutant) -> ast.Module:
    """The module's tree with the fault in it."""
    tree = ast.parse(Path(mutant.file).read_text("utf-8"))
    for number, (place, _, _, new) in enumerate(_edits(tree)):
        if number == mutant.number:
            place.put(new)
            return ast.fix_missing_locations(tree)
    raise ValueError(f"{mutant.file}: no mutant {mutant.number}")


def sample(every: Sequence[Mutant], count: int, seed: int) -> list[Mutant]:
    """Some mutants: one of a line, and a second one only when each line has had its turn."""
    chance = random.Random(seed)
    lines: dict[tuple[str, int], dict[str, list[Mutant]]] = defaultdict(lambda: defaultdict(list))
    for mutant in every:
        lines[mutant.module, mutant.line][mutant.kind].append(mutant)
    queues = []
    for kinds in lines.values():
        queue = [chance.choice(of_kind) for of_kind in kinds.values()]
        chance.shuffle(queue)
        queues.append(queue)
    chance.shuffle(queues)
    rounds = max(map(len, queues), default=0)
    drawn = [queue[turn] for turn in range(rounds) for queue in queues if turn < len(queue)]
    return drawn[:count]


Edit = tuple[_Place, str, ast.AST, ast.AST]
"""A place, the kind of fault, the node that is there, and the node to put there."""


def _edits(tree: ast.Module) -> list[Edit]:
    return list(_inside(tree, _Place(None, "", None)))


def _inside(node: ast.AST, at: _Place) -> Iterator[Edit]:
    """The edits of everything below a node."""
    for name, value in ast.iter_fields(node):
        if name in SKIPPED_FIELDS:
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if isinstance(child, ast.AST):
                place = _Place(node, name, index, at.scope, at.returns, at.lines, at.bound)
                yield from _of(child, place)


def _of(node: ast.AST, at: _Place) -> Iterator[Edit]:
    """The edits of a node and of everything below it."""
    if isinstance(node, ast.FunctionDef):
        if node.name in SKIPPED_FUNCTIONS:
            return
        own = {a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)}
        hint = ast.unparse(node.returns) if node.returns else ""
        at = _Place(at.parent, at.name, at.index, node.name, hint, at.lines, own)
    if isinstance(node, ast.stmt):
        if _is_left_out(node, at):
            return
        body = getattr(node, "body", None)
        last = body[0].lineno - 1 if isinstance(body, list) else node.end_lineno
        lines = (node.lineno, max(node.lineno, last or 0))
        at = _Place(at.parent, at.name, at.index, at.scope, at.returns, lines, at.bound)
        yield from ((at, kind, node, new) for kind, new in _statement(node, at))
        if isinstance(node, ast.Raise):
            return
        if isinstance(node, ast.Assign):
            at.bound.update(t.id for t in node.targets if isinstance(t, ast.Name))
    elif isinstance(node, ast.expr):
        if isinstance(node, SKIPPED_NODES):
            return
        yield from ((at, kind, node, new) for kind, new in _expression(node, at))
    elif isinstance(node, ast.keyword) and node.arg in SKIPPED_KEYWORDS:
        return
    yield from _inside(node, at)


def _is_left_out(node: ast.stmt, at: _Place) -> bool:
    if isinstance(node, SKIPPED_NODES):
        return True
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return True
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return True
    if not at.scope and isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return any(isinstance(t, ast.Name) and t.id.isupper() for t in targets) or (
            ast.unparse(targets[0]) == "__all__"
        )
    return False


def _statement(node: ast.stmt, at: _Place) -> Iterator[tuple[str, ast.AST]]:
    """What can be done to a statement."""
    if isinstance(node, ast.Expr | ast.AugAssign | ast.Raise | ast.Break | ast.Continue):
        if not isinstance(node, ast.Expr) or isinstance(node.value, ast.Call):
            yield "drop statement", ast.Pass()
    elif isinstance(node, ast.Assign):
        target = node.targets[0]
        again = isinstance(target, ast.Name) and target.id in at.bound
        if at.scope and (again or isinstance(target, ast.Attribute | ast.Subscript)):
            yield "drop statement", ast.Pass()
    elif isinstance(node, ast.Return) and node.value is not None:
        value = node.value
        if isinstance(value, ast.Tuple) and len(value.elts) > 1:
            first, second, *rest = value.elts
            swapped: ast.expr = ast.Tuple([second, first, *rest], ast.Load())
        elif at.returns == "bool":
            swapped = ast.UnaryOp(ast.Not(), value)
        elif at.returns.startswith(NUMERIC):
            swapped = ast.UnaryOp(ast.USub(), value)
        else:
            swapped = ast.Constant(None)
        yield "return value", ast.Return(swapped)


def _expression(node: ast.expr, at: _Place) -> Iterator[tuple[str, ast.AST]]:
    """What can be done to an expression."""
    if at.name in ("test", "ifs") and not isinstance(node, ast.Compare):
        yield "negate condition", ast.UnaryOp(ast.Not(), node)
    if isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            for other in COMPARED[type(op)]:
                yield "comparison", _changed(node, ops=[*node.ops[:k], other(), *node.ops[k + 1 :]])
    elif isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.MatMult):
            yield "arithmetic", _changed(node, left=node.right, right=node.left)
        elif type(node.op) in COMPUTED and not _is_text(node):
            yield "arithmetic", _changed(node, op=COMPUTED[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield "and/or", _changed(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield "drop operator", node.operand
    elif isinstance(node, ast.Constant):
        yield from _constant(node.value)
    elif isinstance(node, ast.Call):
        yield from _call(node)


def _constant(value: object) -> Iterator[tuple[str, ast.AST]]:
    if isinstance(value, bool):
        yield "constant", ast.Constant(not value)
    elif isinstance(value, int):
        yield "constant", ast.Constant(value + 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(2 * value or 1.0)


def _call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    called = ast.unparse(node.func).rpartition(".")[2]
    if called in SKIPPED_CALLS:
        return
    if called in RENAMED:
        func = copy.copy(node.func)
        setattr(func, "id" if isinstance(func, ast.Name) else "attr", RENAMED[called])
        yield "min/max", _changed(node, func=func)
    args = node.args
    if len(args) > 1 and not any(isinstance(a, ast.Starred) for a in args):
        yield "swap arguments", _changed(node, args=[args[1], args[0], *args[2:]])
    for k, keyword in enumerate(node.keywords):
        if keyword.arg and keyword.arg not in SKIPPED_KEYWORDS:
            rest = [*node.keywords[:k], *node.keywords[k + 1 :]]
            yield "drop argument", _changed(node, keywords=rest)


def _is_text(node: ast.BinOp) -> bool:
    return any(
        isinstance(side, ast.JoinedStr)
        or (isinstance(side, ast.Constant) and isinstance(side.value, str))
        for side in (node.left, node.right)
    )


def _changed(node: Any, **fields: object) -> Any:
    """A shallow copy with other fields."""
    other = copy.copy(node)
    for name, value in fields.items():
        setattr(other, name, value)
    return other
