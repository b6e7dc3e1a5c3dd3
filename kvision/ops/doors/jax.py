"""Native kernels as foreign functions of JAX: under `jit`, `grad` and `vmap`."""

import functools

import jax
import numpy as np

from kvision.ops import native

_TYPES = {"bool": bool, "int": np.int64, "float": np.float32, "str": str}
_LISTS = {"list[float]": np.float64, "list[int]": np.int64}


@functools.cache
def load():
    """Registers the handlers; raises `RuntimeError` where the kernels cannot be had."""
    module = native.require_module()
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
    frozen = []
    for rule in native.description(name)["attributes"]:
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
    run = functools.partial(_run, name, attributes)
    rule = native.gradient_of(name)
    if rule is None:
        return lambda *tensors: run(*jax.lax.stop_gradient(tensors))
    op = native.description(name)
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
        recorded = native.Recorded(kept, shapes, dict(attributes))
        found = rule.function(recorded, *(gradients[i] for i in floating))
        return tuple(found.get(name) for name in inputs)

    function = jax.custom_vjp(run)
    function.defvjp(forward, backward)
    return function


@jax.tree_util.register_static
class _Shape:
    """The shape of a tensor that is not kept itself."""

    def __init__(self, tensor):
        self.sizes = tuple(tensor.shape)

    def __hash__(self):
        return hash(self.sizes)

    def __eq__(self, other):
        return isinstance(other, _Shape) and self.sizes == other.sizes


def _run(name, attributes, *tensors):
    op = native.description(name)
    flat = jax.tree.leaves(tensors)
    described = [(str(tensor.dtype), tuple(tensor.shape)) for tensor in flat]
    specs = native.module().output_specs(name, described, dict(attributes))
    results = [jax.ShapeDtypeStruct(shape, np.dtype(dtype)) for dtype, shape in specs]
    values = {
        key: np.array(value, _LISTS[rule["type"]]) if rule["type"] in _LISTS else value
        for (key, value), rule in zip(attributes, op["attributes"], strict=True)
    }
    found = jax.ffi.ffi_call(f"kvision_{name}", results, vmap_method="sequential")(*flat, **values)
    if op["outputs"][0]["list"]:
        return list(found)
    return found[0] if len(found) == 1 else tuple(found)
