"""Native kernels as foreign functions of JAX: under `jit`, `grad` and `vmap`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from kvision.ops import library
from kvision.ops.gradients import Recorded, gradient_of

_TYPES = {"bool": bool, "int": np.int64, "float": np.float32, "str": str}
_LISTS = {"list[float]": np.float64, "list[int]": np.int64}


@functools.cache
def load():
    """Registers the handlers; raises `RuntimeError` where the kernels cannot be had."""
    module = library.require_module()
    handlers = module.ffi_handlers()
    if not handlers:
        raise RuntimeError(
            "kvision: the native library was built without JAX; reinstall kvision beside it."
        )
    if jax.default_backend() not in ("cpu", "gpu") or (
        jax.default_backend() == "gpu" and not module.build_info()["cuda"]
    ):
        raise RuntimeError(
            f"kvision: the native library has no kernels for JAX's {jax.default_backend()!r}; it "
            "has those for CUDA if nvcc is there when it is built."
        )
    for target, platforms in handlers.items():
        for platform, capsule in platforms.items():
            jax.ffi.register_ffi_target(target, capsule, platform=platform)


def call(name, tensors, attributes):
    """See `kvision.ops.native.call`."""
    load()
    return _function(name, _frozen(name, attributes))(*tensors)


def _frozen(name, attributes):
    """The attributes as a key, in the types that handlers take."""
    rules, frozen = library.description(name)["attributes"], []
    for unknown in attributes.keys() - {rule["name"] for rule in rules}:
        raise TypeError(f"{name}: there is no argument `{unknown}`.")
    for rule in rules:
        if rule["required"] and rule["name"] not in attributes:
            raise TypeError(f"{name}: `{rule['name']}` must be given.")
        value = attributes.get(rule["name"], rule["default"])
        if rule["type"] in _LISTS:
            value = tuple(np.ravel(value).tolist())
        else:
            value = _TYPES[rule["type"]](value)
        frozen.append((rule["name"], value))
    return tuple(frozen)


@functools.lru_cache(maxsize=512)
def _function(name, attributes):
    """The op with these attributes, as a function of its tensors that JAX can differentiate."""
    run = _mapped(name, attributes)
    rule = gradient_of(name)
    if rule is None:
        return jax.jit(lambda *tensors: run(*jax.lax.stop_gradient(tensors)))
    op = library.description(name)
    inputs = [r["name"] for r in op["inputs"]]
    outputs = [r["name"] for r in op["outputs"]]
    floating = [i for i, r in enumerate(op["outputs"]) if r["dtype"] not in ("int32", "bool")]

    def forward(*tensors):
        results = function(*tensors)  # for it is differentiated itself in a second derivative
        known = dict(zip(inputs, tensors, strict=True))
        known |= dict(zip(outputs, results if len(outputs) > 1 else (results,), strict=True))
        shapes = {name: jax.tree.map(_Shape, known[name]) for name in inputs}
        return results, ({name: known[name] for name in rule.keeps}, shapes)

    def backward(residuals, gradients):
        kept, shapes = residuals
        shapes = jax.tree.map(lambda s: s.sizes, shapes, is_leaf=lambda s: isinstance(s, _Shape))
        gradients = gradients if len(outputs) > 1 else (gradients,)
        recorded = Recorded(kept, shapes, dict(attributes))
        found = rule.function(recorded, *(gradients[i] for i in floating))
        return tuple(found.get(name) for name in inputs)

    function = jax.custom_vjp(run)
    function.defvjp(forward, backward)
    return jax.jit(function)  # else every eager call would be traced anew


@jax.tree_util.register_static
class _Shape:
    """The shape of a tensor that is not kept itself."""

    def __init__(self, tensor):
        self.sizes = tuple(tensor.shape)

    def __hash__(self):
        return hash(self.sizes)

    def __eq__(self, other):
        return isinstance(other, _Shape) and self.sizes == other.sizes


@functools.lru_cache(maxsize=512)
def _mapped(name, attributes):
    """The op with these attributes, for `vmap` to fold the axis that it maps into the batch.

    An op that has no batch is called once for each element.
    """
    op = library.description(name)
    leading = {rule["axes"].partition(" ")[0] for rule in [*op["inputs"], *op["outputs"]]}
    if not leading <= {"batch", "batch|1"}:
        return functools.partial(_run, name, attributes)
    run = jax.custom_batching.custom_vmap(functools.partial(_run, name, attributes))

    @run.def_vmap
    def fold(size, is_mapped, *tensors):
        batches = jax.tree.map(lambda t, mapped: t.shape[int(mapped)], list(tensors), is_mapped)
        batch = next(
            jax.tree.leaves(b)[0]
            for b, rule in zip(batches, op["inputs"], strict=True)
            if rule["axes"].split()[0] == "batch"
        )

        def folded(tensor, mapped, own):
            if not mapped and own != batch:
                return tensor  # it is shared by the whole batch
            rest = tensor.shape[1 + int(mapped) :]
            tensor = tensor if mapped else tensor[None]
            return jnp.broadcast_to(tensor, (size, batch, *rest)).reshape(size * batch, *rest)

        results = _mapped(name, _in_larger_batch(op, attributes, size))(
            *jax.tree.map(folded, list(tensors), is_mapped, batches)
        )
        results = jax.tree.map(lambda r: r.reshape(size, batch, *r.shape[1:]), results)
        return results, jax.tree.map(lambda _: True, results)

    return run


def _in_larger_batch(op, attributes, size):
    """The attributes with `size` times the batch in the shapes that they hold."""
    strides = {r["shape_from"]: len(r["axes"].split()) for r in op["outputs"] if r["shape_from"]}
    return tuple(
        (key, tuple(v if i % strides[key] else v * size for i, v in enumerate(value)))
        if key in strides
        else (key, value)
        for key, value in attributes
    )


def _run(name, attributes, *tensors):
    op = library.description(name)
    flat = jax.tree.leaves(tensors)
    described = [(str(tensor.dtype), tuple(tensor.shape)) for tensor in flat]
    specs = library.module().output_specs(name, described, dict(attributes))
    results = [jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for dtype, shape in specs]
    values = {
        key: np.array(value, _LISTS[rule["type"]]) if rule["type"] in _LISTS else value
        for (key, value), rule in zip(attributes, op["attributes"], strict=True)
    }
    found = jax.ffi.ffi_call(f"kvision_{name}", results, vmap_method="sequential")(*flat, **values)
    if op["outputs"][0]["list"]:
        return list(found)
    return found[0] if len(found) == 1 else tuple(found)
