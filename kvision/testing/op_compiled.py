"""Compilers: an op under XLA, in `jax.jit` or in `torch.compile` runs its native kernel."""

import re

import keras
import numpy as np

from kvision.ops import native
from kvision.testing import op_results
from kvision.testing.vjp import to_numpy, to_tensor

TOLERANCE = 1e-6


def check_compiled(contract, variant):
    """Raises `AssertionError` unless a compiler gives an eager call's results by native kernels.

    Integers are equal; floats, gradients too, differ by at most 1e-6 of the greatest one.

    Args:
        contract: `OpContract`.
        variant: `Variant`.
    """
    dtype = contract.default_dtype
    inputs = contract.draw(variant, contract.sizes_of(variant), dtype)
    arguments = contract.arguments_of(variant)
    wanted = op_results.results(contract, inputs, arguments)
    upstream = op_results.output_gradients(contract, variant, wanted, dtype)
    watched = contract.differentiable(variant)
    if watched:
        wanted |= by_gradient(op_results.gradients(contract, inputs, arguments, upstream, watched))
    found, kernels = compiled_results(contract, inputs, arguments, upstream, watched)
    for name, value in wanted.items():
        difference = greatest_difference(found[name], value)
        if not difference <= TOLERANCE:
            raise AssertionError(
                f"{contract.name}: {name} differs by {difference:.2g} where it is compiled."
            )
    missing = native_calls(contract, watched) - kernels
    if missing:
        raise AssertionError(
            f"{contract.name}: the compiled program calls {sorted(kernels)}, and not {missing}."
        )


def compiled_results(contract, inputs, arguments, upstream, watched):
    """What a call and its gradient give when the backend's compiler has compiled them.

    Args:
        contract: `OpContract`.
        inputs: Arrays by name.
        arguments: Arguments by name.
        upstream: The gradient of every floating output by name.
        watched: Names of the inputs to differentiate by.

    Returns:
        Arrays by name, gradients as `"gradient of <input>"`; and the names of the native ops that
        the compiled program calls.
    """
    compilers = {
        "tensorflow": _compiled_by_tensorflow,
        "jax": _compiled_by_jax,
        "torch": _compiled_by_torch,
    }
    upstream = upstream if watched else {}
    tensors = {name: to_tensor(value) for name, value in inputs.items()}
    arriving = {name: to_tensor(value) for name, value in upstream.items()}

    def function(leaves, others):
        """The outputs, and the number whose gradients are those wanted."""
        outputs = contract.call({**others, **leaves}, arguments)
        terms = [keras.ops.sum(outputs[name] * arriving[name]) for name in upstream]
        return sum(terms, start=0.0), outputs

    leaves = {name: tensors.pop(name) for name in watched}
    outputs, gradients, kernels = compilers[keras.backend.backend()](function, leaves, tensors)
    found = {name: to_numpy(value) for name, value in outputs.items()}
    op_results.check_gradients_exist(contract, gradients)
    return found | by_gradient({n: to_numpy(g) for n, g in gradients.items()}), kernels


def _compiled_by_tensorflow(function, leaves, others):
    import tensorflow as tf

    def differentiated(leaves, others):
        with tf.GradientTape() as tape:
            tape.watch(leaves)
            total, outputs = function(leaves, others)
        return outputs, tape.gradient(total, leaves) if leaves else {}

    compiled = tf.function(differentiated, jit_compile=True, autograph=False)
    program = compiled.experimental_get_compiler_ir(leaves, others)(stage="optimized_hlo")
    return *compiled(leaves, others), _custom_calls(program)


def _custom_calls(program):
    """The native ops that a program of XLA calls."""
    return set(re.findall(r'custom_call_target="kvision_(\w+)"', program))


def _compiled_by_jax(function, leaves, others):
    import jax

    def differentiated(leaves, others):
        if not leaves:
            return function(leaves, others)[1], {}
        gradients, outputs = jax.grad(function, has_aux=True)(leaves, others)
        return outputs, gradients

    compiled = jax.jit(differentiated).lower(leaves, others).compile()
    return *compiled(leaves, others), _custom_calls(compiled.as_text())


def _compiled_by_torch(function, leaves, others):
    import torch
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    kernels = set()

    def record(graph, _):
        targets = [str(node.target) for node in graph.graph.nodes]
        kernels.update(t.split(".")[1] for t in targets if t.startswith("kvision."))
        return make_boxed_func(graph.forward)

    leaves = {name: leaf.detach().requires_grad_() for name, leaf in leaves.items()}
    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=record))
    total, outputs = compiled(leaves, others)
    if leaves:
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
        leaves = dict(zip(leaves, gradients, strict=True))
    return outputs, leaves, kernels


def native_calls(contract, watched):
    """The native ops that a program with an op, and with its gradient, has to call.

    Args:
        contract: `OpContract`.
        watched: Names of the inputs to differentiate by.
    """
    names = set(contract.native_ops or [contract.kernel_name or contract.name])
    if watched:
        names |= {f"{name}_gradient" for name in names}
    return names & {op["name"] for op in native.require_module().ops()}


def by_gradient(gradients):
    """Gradients by the names that they have among results.

    Args:
        gradients: Arrays by the name of the input.
    """
    return {f"gradient of {name}": value for name, value in gradients.items()}


def greatest_difference(found, wanted):
    """The greatest difference, as a part of the greatest magnitude; infinite where integers differ.

    Args:
        found: Array.
        wanted: Array.
    """
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return np.inf
    if not np.issubdtype(wanted.dtype, np.floating):
        return 0.0 if np.array_equal(found, wanted) else np.inf
    same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
    if same.all():
        return 0.0
    if not np.isfinite(found[~same]).all() or not np.isfinite(wanted[~same]).all():
        return np.inf
    difference = np.abs(found - wanted, where=~same, out=np.zeros(wanted.shape))
    return float(np.max(difference) / np.max(np.abs(wanted[np.isfinite(wanted)])))
