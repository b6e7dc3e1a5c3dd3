"""Kernels: the same bits for every number of threads and every instruction set."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np

from kvision.testing import op_results
from kvision.testing.kernel_process import answer, load

ISAS = ("baseline", "avx2", "avx512")
NUM_THREADS = (1, 2, 3, 16)


def check_threads(contract):
    """Raises `AssertionError` unless kernels give the op's bits for every number of threads.

    Args:
        contract: `OpContract`.
    """
    module = load(_module(contract))
    for calls, wanted in _calls(contract):
        for call in calls:
            one = None
            for num_threads in NUM_THREADS:
                (found,) = answer(module, [_request(call, num_threads)])
                one = one or found
                _check_bits(f"{call.function} with {num_threads} threads", found, one)
            for index, name in call.equals.items():
                label = f"{call.function} and `{name}` of the op"
                _check_bits(label, [one[index]], [wanted[name]])


def check_instruction_sets(contract, folder):
    """Raises `AssertionError` unless kernels give the same with every instruction set.

    The same bits, or within the table's tolerance, but then with the same bits for one thread and
    several. A set that the processor lacks runs as the best that it has.

    Args:
        contract: `OpContract`.
        folder: Path of a folder for what the processes exchange.
    """
    calls = [call for group, _ in _calls(contract) for call in group]
    pending = [_request(call, num_threads) for call in calls for num_threads in (1, 3)]
    requests, module = folder / "requests.pickle", _module(contract)
    requests.write_bytes(pickle.dumps(pending))
    here = answer(load(module), pending)[::2]
    for isa in ISAS:
        replies = folder / f"{isa}.pickle"
        script = Path(__file__).with_name("kernel_process.py")
        subprocess.run(
            [sys.executable, "-P", str(script), module, str(requests), str(replies)],
            env={**os.environ, "KVISION_ISA": isa},
            check=True,
        )
        found = pickle.loads(replies.read_bytes())
        for call, one, several, wanted in zip(calls, found[::2], found[1::2], here, strict=True):
            label = f"{call.function} with {isa}"
            _check_bits(f"{label} and several threads", several, one)
            for result, other in zip(one, wanted, strict=True):
                op_results.check_close(
                    label, np.asarray(result), np.asarray(other), contract.isa_tolerance
                )


def _calls(contract):
    """For every variant, the kernels' calls and the results of the op itself, by name."""
    dtype = contract.default_dtype
    for variant in contract.variants.values():
        sizes = {**contract.sizes_of(variant), **contract.kernel_sizes}
        sizes = {name: sizes[name] for name in contract.named_axes(variant)}
        inputs = contract.draw(variant, sizes, dtype)
        arguments = contract.arguments_of(variant)
        wanted = op_results.results(contract, inputs, arguments)
        upstream = op_results.output_gradients(contract, variant, wanted, dtype)
        watched = contract.differentiable(variant)
        if watched:
            gradients = op_results.gradients(contract, inputs, arguments, upstream, watched)
            wanted |= {f"gradient of {name}": gradients[name] for name in watched}
        yield contract.kernels(inputs, arguments, upstream), wanted


def _module(contract):
    if contract.kernel_module is not None:
        return contract.kernel_module
    from kvision.ops import native

    return native.module().__file__


def _request(call, num_threads):
    return call.function, {**call.arguments, "num_threads": num_threads}


def _check_bits(label, found, wanted):
    for one, other in zip(found, wanted, strict=True):
        one, other = np.asarray(one), np.asarray(other)
        if one.dtype != other.dtype or one.tobytes() != other.tobytes():
            raise AssertionError(f"{label}: other bits than expected.")
