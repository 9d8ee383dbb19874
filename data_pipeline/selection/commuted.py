"""The path of an equation with its sums and products in one order: ``4+3*2=10`` is ``2*3+4=10``."""

from __future__ import annotations

import ast
import re

SIGNS = re.compile(r"(<=|>=|[=<>≈≤≥])")
PLAIN = re.compile(r"[\d.+\-*/^()]+")  # what is read here; another side stays as it is
OPERATORS: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "+"),
    ast.Sub: ("+", "-"),
    ast.Mult: ("*", "*"),
    ast.Div: ("*", "/"),
}


def commuted(path: str) -> str:
    """A path whose sides are written in one way of all that the laws of commutation and association allow."""
    return "".join(side if SIGNS.fullmatch(side) else ordered(side) for side in SIGNS.split(path))


def ordered(side: str) -> str:
    if not PLAIN.fullmatch(side):
        return side
    try:
        return written(ast.parse(side.replace("^", "**"), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return side


def written(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return repr(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return f"(-{written(node.operand)})"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return f"({written(node.left)}^{written(node.right)})"
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        kind = OPERATORS[type(node.op)][0]
        parts = sorted(f"{sign}{written(part)}" for sign, part in terms(node, kind, inverse=False))
        return f"({''.join(parts)})"
    raise ValueError("no plain arithmetic")


def terms(node: ast.expr, kind: str, inverse: bool) -> list[tuple[str, ast.expr]]:
    """The operands of a sum (kind ``+``) or a product (``*``), each with its sign, brackets of the same kind opened."""
    if isinstance(node, ast.BinOp) and OPERATORS.get(type(node.op), ("", ""))[0] == kind:
        turned = inverse != isinstance(node.op, ast.Sub | ast.Div)
        return terms(node.left, kind, inverse) + terms(node.right, kind, turned)
    return [(("-" if inverse else "+") if kind == "+" else ("/" if inverse else "*"), node)]
