"""Writes `kvision/_C.pyi` and what it says from the module itself; with `--check` compares.

    python tools/stub.py [--check]
"""

import sys
import textwrap
from pathlib import Path

STUB = Path(__file__).parents[1] / "kvision" / "_C.pyi"
HEAD = '''"""The native kernels on NumPy arrays. Written by tools/stub.py."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy import ndarray
from numpy.typing import ArrayLike

_Described = Sequence[tuple[str, Sequence[int]]]
_Pointed = Sequence[tuple[int, str, Sequence[int]]]

'''
REST = {
    "build_info": "() -> dict[str, str]",
    "ffi_handlers": "() -> dict[str, dict[str, Any]]",
    "ops": "() -> list[dict[str, Any]]",
    "output_specs": "(op: str, inputs: _Described, attributes: Mapping[str, Any])"
    " -> list[tuple[str, list[int]]]",
    "run": "(op: str, inputs: _Pointed, outputs: _Pointed, attributes: Mapping[str, Any],"
    " stream: int | None = None, allocate: Callable[[int], int] | None = None,"
    " num_threads: int = 0) -> None",
}
TYPES = {"list[float]": "ArrayLike", "list[int]": "ArrayLike"}


def stub(module):
    """The text of the stub.

    Args:
        module: `kvision._C`.
    """
    functions = {op["name"]: _signature(op) for op in module.ops()} | REST
    return HEAD + "\n".join(
        f'def {name}{signature}:\n    """{_indented(getattr(module, name).__doc__)}"""\n'
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
    arguments = [*inputs, "*", *attributes, "num_threads: int = 0"]
    return f"({', '.join(arguments)}) -> {returned}"


def _default(rule):
    infinite = isinstance(rule["default"], float) and abs(rule["default"]) == float("inf")
    return " = ..." if infinite else f" = {rule['default']!r}"


def _indented(text):
    lines = text.strip()
    if "\n" not in lines:
        return lines
    return textwrap.indent(lines, "    ").strip() + "\n    "


def main():
    sys.path.insert(0, str(STUB.parents[1]))
    from kvision import _C

    text = stub(_C)
    if "--check" in sys.argv:
        return int(text != STUB.read_text())
    STUB.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
