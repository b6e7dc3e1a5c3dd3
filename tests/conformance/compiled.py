"""Every op under TensorFlow's XLA, in JAX and in PyTorch, beside the eager TensorFlow op: a table.

    python -m tests.conformance.compiled answer FILE
    KERAS_BACKEND=tensorflow|jax|torch python -m tests.conformance.compiled compare FILE

The first writes inputs, results and gradients of every variant of the ops' tables; it needs
TensorFlow, the second only the backend that it compares. Exits with 1 if a result differs by more
than 1e-6 of the greatest one, or a compiled program lacks the native call.
"""

import importlib
import sys
from pathlib import Path

import keras
import numpy as np

from kvision.ops import NATIVE, native
from kvision.testing import OpTests, op_compiled, op_results

COMPILERS = {"tensorflow": "jit_compile=True", "jax": "jax.jit", "torch": "torch.compile"}
_TABLES = Path(__file__).parents[1] / "ops"


def main(step, path):
    with native.implementation("native"):
        return {"answer": answer, "compare": compare}[step](path)


def variants():
    """The table and the variant of every call that a compiler can take, by a name for both."""
    for file in sorted(_TABLES.glob("test_*.py")):
        module = importlib.import_module(f"tests.ops.{file.stem}")
        for tests in vars(module).values():
            if isinstance(tests, type) and issubclass(tests, OpTests) and tests is not OpTests:
                contract = tests.contract
                for name, variant in contract.variants.items():
                    if variant.symbolic:  # else its results have sizes that depend on data
                        yield f"{contract.name}/{name}", contract, variant


def answer(path):
    """Writes what the eager TensorFlow ops give."""
    arrays = {}
    for label, contract, variant in variants():
        dtype, arguments = contract.default_dtype, contract.arguments_of(variant)
        inputs = contract.draw(variant, contract.sizes_of(variant), dtype)
        outputs = op_results.results(contract, inputs, arguments)
        upstream = op_results.output_gradients(contract, variant, outputs, dtype)
        watched = contract.differentiable(variant)
        if watched:
            outputs |= op_compiled.by_gradient(
                op_results.gradients(contract, inputs, arguments, upstream, watched)
            )
        parts = {"input": inputs, "output": outputs, "upstream": upstream}
        for part, values in parts.items():
            arrays |= {f"{label}/{part}/{name}": value for name, value in values.items()}
    np.savez(path, **arrays)
    return 0


def compare(path):
    """Prints a row an op: the greatest difference, and the native ops that are called."""
    backend = keras.backend.backend()
    compiler = COMPILERS[backend]
    with np.load(path) as file:
        arrays = dict(file)
    rows = {}
    for label, contract, variant in variants():
        inputs, wanted, upstream = (
            {
                name.removeprefix(f"{label}/{part}/"): value
                for name, value in arrays.items()
                if name.startswith(f"{label}/{part}/")
            }
            for part in ("input", "output", "upstream")
        )
        watched = contract.differentiable(variant)
        found, kernels = op_compiled.compiled_results(
            contract, inputs, contract.arguments_of(variant), upstream, watched
        )
        differences = [op_compiled.greatest_difference(found[n], v) for n, v in wanted.items()]
        needed = op_compiled.native_calls(contract, watched)
        row = rows.setdefault(contract.name, [0, 0.0, set(), set()])
        row[0] += 1
        row[1] = max(row[1], *differences)
        row[2] |= kernels
        row[3] |= needed - kernels
    print("| op | compiler | variants | greatest relative difference | native calls |")
    print("|---|---|---|---|---|")
    for name, (number, difference, kernels, missing) in sorted(rows.items()):
        calls = ", ".join(sorted(kernels)) + "".join(f"; MISSING {m}" for m in sorted(missing))
        print(f"| {name} | {compiler} | {number} | {difference:.1g} | {calls} |")
    wrong = [n for n, row in rows.items() if not row[1] <= op_compiled.TOLERANCE or row[3]]
    return int(bool(wrong) or set(rows) != set(NATIVE))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
