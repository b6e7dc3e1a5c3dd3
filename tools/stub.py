"""Writes `kvision/_C.pyi` and what it says from the module itself; with `--check` compares.

python tools/stub.py [--check]
"""

import sys
import textwrap
from pathlib import Path

STUB = Path(__file__).parents[1] / "kvision" / "_C.pyi"
HEAD = '''# ruff: noqa: E501
"""The native kernels on NumPy arrays. Written by tools/stub.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy import ndarray
from numpy.typing import ArrayLike

_Described = Sequence[tuple[str, Sequence[int]]]
_Pointed = Sequence[tuple[int, str, Sequence[int]]]

'''
# The arguments and the result of what is no op.
REST = {
    "build_info": ([], "dict[str, str]"),
    "ffi_handlers": ([], "dict[str, dict[str, Any]]"),
    "ops": ([], "list[dict[str, Any]]"),
    "output_specs": (
        ["op: str", "inputs: _Described", "attributes: Mapping[str, Any]"],
        "list[tuple[str, list[int]]]",
    ),
    "run": (
        [
            "op: str",
            "inputs: _Pointed",
            "outputs: _Pointed",
            "attributes: Mapping[str, Any]",
            "stream: int | None = None",
            "allocate: Callable[[int], int] | None = None",
            "num_threads: int = 0",
        ],
        "None",
    ),
}
TYPES = {"list[float]": "ArrayLike", "list[int]": "ArrayLike"}


def stub(module):
    """The text of the stub.

    Args:
        module: `kvision._C`.
    """
    functions = {op["name"]: _signature(op) for op in module.ops()} | REST
    return HEAD + "\n".join(
        f'def {name}{_written(*signature)}:\n    """{_documentation(module, name)}"""\n'
        for name, signature in sorted(functions.items())
    )


def _signature(op):
    inputs = [
        f"{r['name']}: {'Sequence[ArrayLike]' if r['list'] else 'ArrayLike'}" for r in op["inputs"]
    ]
    attributes = [
        f"{r['name']}: {TYPES.get(r['type'], r['type'])}{'' if r['required'] else _default(r)}"
        for r in op["attributes"]
    ]
    outputs = ["list[ndarray]" if r["list"] else "ndarray" for r in op["outputs"]]
    returned = outputs[0] if len(outputs) == 1 else f"tuple[{', '.join(outputs)}]"
    return [*inputs, "*", *attributes, "num_threads: int = 0"], returned


def _default(rule):
    value = rule["default"]
    if isinstance(value, str):
        return f' = "{value}"'
    return " = ..." if value == float("-inf") else f" = {value!r}"


def _written(arguments, returned):
    if not arguments:
        return f"() -> {returned}"
    return "(\n" + "".join(f"    {argument},\n" for argument in arguments) + f") -> {returned}"


def _documentation(module, name):
    text = getattr(module, name).__doc__.strip()
    if name in REST:  # pybind11 begins with a signature of its own
        text = text.partition("\n\n")[2]
    if "\n" not in text:
        return text
    return textwrap.indent(text, "    ").strip() + "\n    "


def main():
    """Writes the stub, or returns 1 where it would be another."""
    sys.path.insert(0, str(STUB.parents[1]))
    from kvision import _C

    text = stub(_C)
    if "--check" in sys.argv:
        return int(text != STUB.read_text())
    STUB.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
