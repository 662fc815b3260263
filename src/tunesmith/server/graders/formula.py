"""`calculate_output`: arithmetic over the scores of graders, read as a syntax tree and computed node by node.

Nothing is ever executed, and numbers are floats throughout, so no formula can take long.
"""

import ast
import math
from collections.abc import Callable, Collection, Mapping

_FUNCTIONS: dict[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "abs": abs,
    "floor": math.floor,
    "ceil": math.ceil,
    "exp": math.exp,
    "sqrt": math.sqrt,
    "log": math.log,
}

_OPERATIONS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.Div: lambda one, other: one / other,
    ast.Pow: math.pow,
}

_SHOWN = f"+ - * / ^, numbers, the graders' names and {', '.join(_FUNCTIONS)}"


class Formula:
    """A formula over `names`. Raises ValueError for anything but arithmetic."""

    def __init__(self, text: str, names: Collection[str]) -> None:
        try:
            self._body = ast.parse(text.replace("^", "**").strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"calculate_output: not a formula: {text!r}; use {_SHOWN}") from error
        called = {node.func for node in ast.walk(self._body) if isinstance(node, ast.Call)}
        for node in ast.walk(self._body):
            if node not in called:
                _check(node, names)

    def __call__(self, scores: Mapping[str, float]) -> float:
        """The value for these scores. Raises ArithmeticError or ValueError where there is none, as at 1 / 0."""
        try:
            value = _value(self._body, scores)
        except RecursionError as error:
            raise ValueError("too deeply nested") from error
        if not math.isfinite(value):
            raise ValueError(f"not a finite number: {value}")
        return value


def _check(node: ast.AST, names: Collection[str]) -> None:
    match node:
        case ast.Constant(value=bool()) | ast.UnaryOp(op=ast.Not() | ast.Invert()):
            known = False
        case ast.Constant():
            known = isinstance(node.value, int | float)
        case ast.Name():
            known = node.id in names
        case ast.Call(func=ast.Name(id=name), args=[_, *_], keywords=[]):
            known = name in _FUNCTIONS
        case ast.BinOp():
            known = type(node.op) in _OPERATIONS
        case _:
            known = isinstance(node, ast.UnaryOp | ast.operator | ast.unaryop | ast.expr_context)
    if not known:
        shown = ast.unparse(node) if isinstance(node, ast.expr) else type(node).__name__
        raise ValueError(f"calculate_output: {shown} will not do; use {_SHOWN}")


def _value(node: ast.AST, scores: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name(id=name):
            return scores[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, scores)
        case ast.UnaryOp(operand=operand):
            return _value(operand, scores)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATIONS[type(op)](_value(left, scores), _value(right, scores))
        case ast.Call(func=ast.Name(id=name), args=args):
            return float(_FUNCTIONS[name](*(_value(arg, scores) for arg in args)))
    raise ValueError(f"not arithmetic: {ast.dump(node)}")
