"""Calls through the doors of PyTorch and JAX, on one device or the other, as NumPy arrays.

`Torch` and `Jax` have the same methods. Both run the kernels of the same library, on the CPU too.
"""

import keras
import numpy as np

from kvision.ops import native
from tools.gpu_check.calls import rounded

_PLATFORM = {"cpu": "cpu", "cuda": "gpu"}  # as JAX calls them
FLOATING = ("float16", "bfloat16", "float32", "float64")


def outputs_of(call):
    """The dtypes and shapes of a call's outputs, from the op's own description."""
    leaves = keras.tree.flatten(list(call.tensors))
    described = [(leaf.dtype.name, leaf.shape) for leaf in leaves]
    return native.module().output_specs(call.op, described, dict(call.attributes))


def upstream_of(call):
    """A gradient for each floating output of an op that is differentiated, else nothing."""
    if native.gradient_of(call.op) is None:
        return []
    rng = np.random.default_rng(1)
    gradients = []
    for dtype, shape in outputs_of(call):
        if dtype in FLOATING:
            gradients.append(rounded(rng.normal(size=shape), dtype))
            if call.nasty_upstream and gradients[-1].size > 2:
                gradients[-1].flat[[1, -2]] = np.nan, np.inf
    return gradients


class Torch:
    """The door of PyTorch, eagerly."""

    name = "PyTorch"

    def __init__(self):
        import torch

        self.torch = torch

    def on(self, device, array):
        """A tensor on `"cpu"` or `"cuda"`."""
        array = np.ascontiguousarray(array)
        if array.dtype.name == "bfloat16":
            tensor = self.torch.from_numpy(array.view("int16").copy()).view(self.torch.bfloat16)
        else:
            tensor = self.torch.from_numpy(array.copy())
        return tensor.to(device)

    def is_on(self, device, tensor):
        """Whether a tensor is on `"cpu"` or `"cuda"`."""
        return tensor.device.type == device

    def array(self, tensor):
        """A NumPy array, half types as float32."""
        tensor = tensor.detach().cpu()
        half = tensor.dtype in (self.torch.bfloat16, self.torch.float16)
        return (tensor.float() if half else tensor).numpy()

    def run(self, call, device):
        """The outputs and gradients of a call by name.

        Args:
            call: `Call`.
            device: `"cpu"` or `"cuda"`.
        """
        tensors = keras.tree.map_structure(lambda a: self.on(device, a), list(call.tensors))
        upstream = [self.on(device, gradient) for gradient in upstream_of(call)]
        watched = []
        if upstream:
            floating = keras.tree.flatten(tensors)
            watched = [leaf.requires_grad_() for leaf in floating if leaf.is_floating_point()]
        self._litter(call, device)
        outputs = native.call(call.op, *tensors, **call.attributes)
        leaves = keras.tree.flatten(outputs)
        found = {f"output {i}": self.array(leaf) for i, leaf in enumerate(leaves)}
        if upstream:
            differentiable = [leaf for leaf in leaves if leaf.requires_grad]
            gradients = self.torch.autograd.grad(
                differentiable, watched, upstream, allow_unused=True
            )
            for i, gradient in enumerate(gradients):
                if gradient is not None:
                    found[f"gradient {i}"] = self.array(gradient)
        return found

    def _litter(self, call, device):
        """Leaves memory to the allocator that is full of NaN, for outputs that are not written."""
        if device == "cuda":
            for dtype, shape in outputs_of(call):
                size = (
                    int(np.prod(shape))
                    * self.torch.empty(0, dtype=getattr(self.torch, dtype)).itemsize
                )
                self.torch.full((size,), 0xFF, dtype=self.torch.uint8, device=device)

    def compiled(self, function):
        """The function by `torch.compile`, without a break in its graph."""
        return self.torch.compile(function, fullgraph=True)

    def off_the_default_stream(self, call, device):
        """The outputs of a call in a stream of its own, in which its inputs come late."""
        if device == "cpu":
            return self.run(call, device)
        wanted = keras.tree.map_structure(lambda a: self.on(device, a), list(call.tensors))
        tensors = keras.tree.map_structure(self.torch.zeros_like, wanted)
        self.torch.cuda.synchronize()
        with self.torch.cuda.stream(self.torch.cuda.Stream()):
            self.torch.cuda._sleep(100_000_000)  # cycles
            keras.tree.map_structure(lambda t, w: t.copy_(w), tensors, wanted)
            outputs = native.call(call.op, *tensors, **call.attributes)
        self.torch.cuda.synchronize()
        leaves = keras.tree.flatten(outputs)
        return {f"output {i}": self.array(leaf) for i, leaf in enumerate(leaves)}


class Jax:
    """The door of JAX, under `jax.jit`."""

    name = "JAX"

    def __init__(self):
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def on(self, device, array):
        """An array committed to the first CPU or GPU."""
        return self.jax.device_put(np.asarray(array), self.jax.devices(_PLATFORM[device])[0])

    def is_on(self, device, tensor):
        """Whether an array is on a CPU or GPU."""
        return {found.platform for found in tensor.devices()} == {_PLATFORM[device]}

    def array(self, tensor):
        """A NumPy array, half types as float32."""
        array = np.asarray(tensor)
        return array.astype("float32") if array.dtype.name in FLOATING[:2] else array

    def run(self, call, device):
        """The outputs and gradients of a call by name.

        Args:
            call: `Call`.
            device: `"cpu"` or `"cuda"`.
        """
        tensors, upstream = keras.tree.map_structure(
            lambda a: self.on(device, a), (list(call.tensors), upstream_of(call))
        )
        key = call.op, call.name, device
        if getattr(self, "_key", None) != key:  # a second run is of the same program
            self._key, self._program = key, self._compile(call, tensors, upstream)
        outputs, gradients = self._program(tensors, upstream)
        found = {f"output {i}": self.array(leaf) for i, leaf in enumerate(outputs)}
        return found | {f"gradient {i}": self.array(leaf) for i, leaf in enumerate(gradients)}

    def _compile(self, call, tensors, upstream):
        jax = self.jax
        watched = [
            i for i, leaf in enumerate(jax.tree.leaves(tensors)) if leaf.dtype.name in FLOATING
        ]

        def outputs_of_watched(leaves, tensors):
            flat, structure = jax.tree.flatten(tensors)
            for i, leaf in zip(watched, leaves, strict=True):
                flat[i] = leaf
            outputs = native.call(call.op, *jax.tree.unflatten(structure, flat), **call.attributes)
            return jax.tree.leaves(outputs)

        def program(tensors, upstream):
            if not upstream:
                return outputs_of_watched(
                    [jax.tree.leaves(tensors)[i] for i in watched], tensors
                ), []
            leaves = [jax.tree.leaves(tensors)[i] for i in watched]
            outputs, pull_back = jax.vjp(lambda leaves: outputs_of_watched(leaves, tensors), leaves)
            arriving = iter(upstream)
            gradients = [
                next(arriving)
                if output.dtype.name in FLOATING
                else np.zeros(output.shape, jax.dtypes.float0)
                for output in outputs
            ]
            return outputs, pull_back(gradients)[0]

        compiled = jax.jit(program).lower(tensors, upstream).compile()
        text = compiled.as_text()
        empty = not any(np.prod(shape) for _, shape in outputs_of(call))
        if f"kvision_{call.op}" not in text and not empty:
            raise AssertionError(f"{call.name}: the compiled program does not call the kernel.")
        return compiled

    def compiled(self, function):
        """The function by `jax.jit`."""
        return self.jax.jit(function)

    def off_the_default_stream(self, call, device):
        """As `run`: JAX has streams of its own."""
        return self.run(call, device)
