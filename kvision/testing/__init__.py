"""The harness for ops: a table says what an op is, and the tests follow from it.

`OpContract` is the table, `OpTests` the base class that turns it into tests of pytest. It serves
the ops of kvision and those of its users; it knows no concrete op. CONTRIBUTING.md, "Adding an
op", says how to write a table. pytest and hypothesis are needed to run the tests only.
"""

from kvision.testing import draws
from kvision.testing.fuzz_case import FuzzCase
from kvision.testing.op_contract import Case, KernelCall, OpContract, RawOp
from kvision.testing.op_results import running
from kvision.testing.op_signature import AT_LEAST_FLOAT32, Input, Invalid, Output, Variant
from kvision.testing.op_tests import OpTests
from kvision.testing.vjp import to_numpy, to_tensor, vjp

__all__ = [
    "AT_LEAST_FLOAT32",
    "Case",
    "FuzzCase",
    "Input",
    "Invalid",
    "KernelCall",
    "OpContract",
    "OpTests",
    "Output",
    "RawOp",
    "Variant",
    "draws",
    "running",
    "to_numpy",
    "to_tensor",
    "vjp",
]
