"""Reading half-typed Python, and following an expression to its value without running anybody's code."""

from __future__ import annotations

import ast
import builtins
import re
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Libraries whose properties and indexing have no effects: reading them is how they are explored.
KNOWN = frozenset(
    ("builtins", "numpy", "pandas", "polars", "datetime", "pathlib", "collections", "decimal", "fractions")
)
#: Descriptors that only hand out what is there, or bind a method.
_SAFE = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.ClassMethodDescriptorType,
    classmethod,
    staticmethod,
    type,
)
_TRAILING = r"""(?:[^\W\d]\w*|"[^"\n]*"|'[^'\n]*'|\[\]|\{\}|\(\))(?:\s*\.\s*[^\W\d]\w*|\[[^\[\]\n]*\])*\Z"""
_LITERALS = {ast.List: list, ast.Tuple: tuple, ast.Dict: dict, ast.Set: set, ast.JoinedStr: str}


class Unknown(Exception):
    """The value cannot be had without running something."""


# -- text --------------------------------------------------------------------------------------------------


def expression_before(text: str) -> str:
    """The expression a text ends with; "" when there is none that can be followed.

    In:  expression_before("print(a.b['c']")
    Out: "a.b['c']"
    """
    found = re.search(_TRAILING, text[-1000:])
    return found.group() if found else ""


def expression_at(code: str, cursor: int) -> str:
    """The name, with what it is an attribute of, in which the cursor stands, or behind which."""
    rest = re.match(r"\w*", code[cursor:])
    found = expression_before(code[:cursor] + (rest.group() if rest else ""))
    return found if found and (found[-1].isalnum() or found[-1] in "_]") else ""


def open_string(text: str) -> tuple[int, str] | None:
    """Where the content of the string that is open at the end begins, and its quotes; None outside of one.

    In:  open_string("open('da"), open_string("f('a', b")
    Out: ((6, "'"), None)
    """
    return _scanned(text)[0]


def open_call(text: str) -> str:
    """What is called by the parenthesis that is open at the end; "" when there is none.

    In:  open_call("print(max(1, 2), ")
    Out: 'print'
    """
    opened = _scanned(text)[1]
    return expression_before(text[: opened[-1][1]].rstrip()) if opened and opened[-1][0] == "(" else ""


def _scanned(text: str) -> tuple[tuple[int, str] | None, list[tuple[str, int]]]:
    """The open string, and the open brackets with their places."""
    opened: list[tuple[str, int]] = []
    at, end = 0, len(text)
    while at < end:
        char = text[at]
        if char == "#":
            newline = text.find("\n", at)
            at = end if newline < 0 else newline
        elif char in "'\"":
            quote = char * 3 if text.startswith(char * 3, at) else char
            start = at = at + len(quote)
            while at < end and not text.startswith(quote, at):
                if len(quote) == 1 and text[at] == "\n":
                    break
                at += 2 if text[at] == "\\" else 1
            if at >= end:
                return (start, quote), opened
            at += len(quote)
            continue
        elif char in "([{":
            opened.append((char, at))
        elif char in ")]}" and opened:
            opened.pop()
        at += 1
    return None, opened


# -- values ------------------------------------------------------------------------------------------------


def value_of(expression: str, namespace: dict[str, Any]) -> Any:
    """The value of names, plain attributes, and keys of plain containers.

    Raises:
        Unknown: it has parts that would have to be run, or that do not exist.
    """
    if not expression:
        raise Unknown
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise Unknown from None
    return _value(tree, namespace)


def _value(node: ast.expr, namespace: dict[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        if node.id in namespace:
            return namespace[node.id]
        if node.id in builtins.__dict__:
            return builtins.__dict__[node.id]
        raise Unknown
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Attribute):
        return attribute(_value(node.value, namespace), node.attr)
    if isinstance(node, ast.Subscript):
        return _item(_value(node.value, namespace), node.slice)
    if type(node) in _LITERALS:
        return _LITERALS[type(node)]()
    raise Unknown


def _item(value: Any, index: Any) -> Any:
    index = getattr(index, "value", index) if type(index).__name__ == "Index" else index
    try:
        key = ast.literal_eval(index)
    except ValueError:
        raise Unknown from None
    if type(value) not in (dict, list, tuple, str) and not _known(type(value)):
        raise Unknown
    try:
        return value[key]
    except Exception:
        raise Unknown from None


def _known(kind: type) -> bool:
    return str(kind.__dict__.get("__module__", kind.__module__)).partition(".")[0] in KNOWN


def attribute(value: Any, name: str) -> Any:
    """An attribute that can be had without running code of its class.

    Raises:
        Unknown: there is none, or it is a property, or the class decides at run time.
    """
    import inspect

    kind = type(value)
    try:
        static = inspect.getattr_static(value, name)
    except AttributeError:
        raise Unknown from None
    safe = isinstance(static, _SAFE) or type(static).__name__ == "_tuplegetter"
    if _known(kind) or (safe and _looked_up_plainly(kind)):
        try:
            return getattr(value, name)
        except Exception:
            raise Unknown from None
    if hasattr(type(static), "__get__"):
        raise Unknown
    return static


def _looked_up_plainly(kind: type) -> bool:
    lookup: Any = kind.__getattribute__
    return isinstance(lookup, types.WrapperDescriptorType) and lookup.__objclass__.__module__ == "builtins"


def ordinary(value: Any) -> bool:
    """Whether reading attributes of a value runs nothing but properties."""
    kind = type(value)
    if not _looked_up_plainly(kind) or any("__getattr__" in one.__dict__ for one in kind.__mro__):
        return False
    return not isinstance(value, types.ModuleType) or "__getattr__" not in value.__dict__


def kind(value: Any) -> str:
    """What a value is, in the words of Jupyter's completer."""
    if isinstance(value, types.ModuleType):
        return "module"
    if isinstance(value, type):
        return "class"
    plain = (types.FunctionType, types.BuiltinFunctionType, types.MethodType)
    return "function" if isinstance(value, plain) else "instance"


def kind_of(value: Any, name: str) -> str:
    """What an attribute is, as far as can be seen without reading it."""
    import inspect

    try:
        static = inspect.getattr_static(value, name)
    except AttributeError:
        return "instance"
    if isinstance(static, property):
        return "property"
    descriptors = (types.MethodDescriptorType, types.WrapperDescriptorType, classmethod, staticmethod)
    return "function" if isinstance(static, descriptors) else kind(static)
