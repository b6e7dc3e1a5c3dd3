"""Native kernels as operators of PyTorch, `torch.ops.kvision.roi_align` and so on.

They take and return tensors without a copy, on the CPU and on CUDA (in the current stream), have
gradients, and are traced by `torch.compile` without a break in the graph.
"""

import functools
import math

import torch

from kvision.ops import library
from kvision.ops.gradients import Recorded, gradient_of

_TYPES = {
    "bool": "bool",
    "int": "int",
    "float": "float",
    "str": "str",
    "list[float]": "float[]",
    "list[int]": "SymInt[]",
}
_namespace = None
_operators = {}


@functools.cache
def load():
    """Registers the operators; raises `RuntimeError` where the kernels cannot be had."""
    global _namespace
    module = library.require_module()
    if torch.cuda.is_available() and not module.build_info()["cuda"]:
        raise RuntimeError(
            "kvision: the native library was built without CUDA, which PyTorch would use; it has "
            "those kernels if nvcc is there when it is built."
        )
    _namespace = torch.library.Library("kvision", "DEF")
    for op in module.ops():
        _register(_namespace, op)


def call(name, tensors, attributes):
    """See `kvision.ops.native.call`."""
    if not _operators:
        load()
    operator, lists, differentiable = _operators[name]
    if not differentiable:
        tensors = [_detached(tensor) for tensor in tensors]
    for attribute in lists:
        attributes[attribute] = _flat(attributes[attribute])
    return operator(*tensors, **attributes)


def _detached(tensor):
    return [t.detach() for t in tensor] if isinstance(tensor, list) else tensor.detach()


def _flat(value):
    if not isinstance(value, list | tuple):
        return [value]
    return [number for element in value for number in _flat(element)]


def _register(namespace, op):
    name = op["name"]
    namespace.define(_schema(op), tags=(torch.Tag.pt2_compliant_tag,))
    namespace.impl(name, functools.partial(_run, op), "CPU")
    namespace.impl(name, functools.partial(_run, op), "CUDA")
    qualified = f"kvision::{name}"
    torch.library.register_fake(qualified, functools.partial(_fake, op), lib=namespace)
    rule = gradient_of(name)
    if rule is not None:
        torch.library.register_autograd(
            qualified,
            functools.partial(_backward, op, rule),
            setup_context=functools.partial(_record, op, rule),
            lib=namespace,
        )
    lists = tuple(r["name"] for r in op["attributes"] if r["type"].startswith("list"))
    _operators[name] = getattr(torch.ops.kvision, name), lists, rule is not None


def _schema(op):
    inputs = [f"Tensor{'[]' if r['list'] else ''} {r['name']}" for r in op["inputs"]]
    attributes = [f"{_TYPES[r['type']]} {r['name']}{_default(r)}" for r in op["attributes"]]
    outputs = [f"Tensor{'[]' if r['list'] else ''}" for r in op["outputs"]]
    returned = outputs[0] if len(outputs) == 1 else f"({', '.join(outputs)})"
    return f"{op['name']}({', '.join([*inputs, '*', *attributes])}) -> {returned}"


def _default(rule):
    value = rule["default"]
    if rule["required"] or value == -math.inf:  # which a schema cannot say
        return ""
    return f'="{value}"' if isinstance(value, str) else f"={value}"


def _run(op, *tensors, **attributes):
    inputs = [tensor.contiguous() for tensor in _leaves(tensors)]
    device = inputs[0].device
    if any(tensor.device != device for tensor in inputs):
        found = ", ".join(str(tensor.device) for tensor in inputs)
        raise ValueError(f"{op['name']}: all tensors must be on one device. Received: {found}.")
    described = [(_dtype_name(tensor), tuple(tensor.shape)) for tensor in inputs]
    module = library.module()
    outputs = [
        torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        for dtype, shape in module.output_specs(op["name"], described, attributes)
    ]
    pointed = ([_pointed(t) for t in inputs], [_pointed(t) for t in outputs])
    if device.type == "cpu":
        module.run(op["name"], *pointed, attributes, num_threads=torch.get_num_threads())
        return _returned(op, outputs)
    workspaces = []  # PyTorch hands their memory on in the order of the stream

    def allocate(size):
        workspaces.append(torch.empty(size, dtype=torch.uint8, device=device))
        return workspaces[-1].data_ptr()

    with torch.cuda.device(device):
        stream = torch.cuda.current_stream().cuda_stream
        module.run(op["name"], *pointed, attributes, stream=stream, allocate=allocate)
    return _returned(op, outputs)


def _fake(op, *tensors, **attributes):
    """The outputs without their data, from the op's own words: a size may be a symbol."""
    inputs = [list(t) if isinstance(t, list | tuple) else [t] for t in tensors]
    attributes = _with_defaults(op, attributes)
    sizes = {name: v for name, v in attributes.items() if isinstance(v, int) and v >= 0}
    dtypes = {}
    for rule, group in zip(op["inputs"], inputs, strict=True):
        dtypes.setdefault(rule["dtype"], group[0].dtype)
        if len(group[0].shape) != len(rule["axes"].split()):
            axes, found = rule["axes"].replace(" ", ", "), tuple(group[0].shape)
            raise ValueError(
                f"{op['name']}: `{rule['name']}` must have shape ({axes}). Received: {found}."
            )
        for index, axis in enumerate(rule["axes"].split()):
            if axis[0] == "+":  # the tensors of the list make it up together
                sizes.setdefault(axis[1:], sum(tensor.shape[index] for tensor in group))
            elif "|" not in axis:  # else another tensor tells
                sizes.setdefault(axis, group[0].shape[index])
    outputs = []
    for rule in op["outputs"]:
        axes = rule["axes"].split()
        if rule["shape_from"]:
            given = list(attributes[rule["shape_from"]])
            shapes = [given[i : i + len(axes)] for i in range(0, len(given), len(axes))]
        else:
            shapes = [[_size(axis, sizes) for axis in axes]]
        dtype = dtypes.get(rule["dtype"]) or getattr(torch, rule["dtype"])
        outputs += [inputs[0][0].new_empty(shape, dtype=dtype) for shape in shapes]
    return _returned(op, outputs)


def _with_defaults(op, attributes):
    """All attributes: PyTorch hands on those that were given."""
    return {r["name"]: attributes.get(r["name"], r["default"]) for r in op["attributes"]}


def _size(axis, sizes):
    if axis.isdecimal():
        return int(axis)
    return next(sizes[name] for name in axis.split("|") if name in sizes)


def _record(op, rule, ctx, inputs, keyword_only_inputs, output):
    outputs = output if len(op["outputs"]) > 1 else (output,)
    known = dict(zip((r["name"] for r in op["inputs"]), inputs, strict=True))
    ctx.kvision_shapes = {name: _shapes(value) for name, value in known.items()}
    known |= dict(zip((r["name"] for r in op["outputs"]), outputs, strict=True))
    ctx.kvision_attributes = _with_defaults(op, keyword_only_inputs)
    ctx.kvision_lists = {
        name: len(known[name]) for name in rule.keeps if isinstance(known[name], list | tuple)
    }
    ctx.save_for_backward(*_leaves([known[name] for name in rule.keeps]))


def _backward(op, rule, ctx, *output_gradients):
    saved = list(ctx.saved_tensors)
    kept = {}
    for name in rule.keeps:
        if name in ctx.kvision_lists:
            kept[name] = [saved.pop(0) for _ in range(ctx.kvision_lists[name])]
        else:
            kept[name] = saved.pop(0)
    recorded = Recorded(kept, ctx.kvision_shapes, ctx.kvision_attributes)
    floating = (r["dtype"] not in ("int32", "bool") for r in op["outputs"])
    wanted = [g for g, is_float in zip(output_gradients, floating, strict=True) if is_float]
    found = rule.function(recorded, *wanted)
    gradients = []
    for r in op["inputs"]:
        missing = [None] * len(ctx.kvision_shapes[r["name"]]) if r["list"] else None
        gradients.append(found.get(r["name"], missing))
    return tuple(gradients) if len(gradients) > 1 else gradients[0]


def _leaves(tensors):
    for tensor in tensors:
        if isinstance(tensor, list | tuple):
            yield from tensor
        else:
            yield tensor


def _shapes(value):
    return (
        [tuple(v.shape) for v in value] if isinstance(value, list | tuple) else tuple(value.shape)
    )


def _returned(op, outputs):
    if op["outputs"][0]["list"]:
        return outputs
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def _pointed(tensor):
    return tensor.data_ptr(), _dtype_name(tensor), tuple(tensor.shape)


@functools.cache
def _name(dtype):
    return str(dtype).removeprefix("torch.")


def _dtype_name(tensor):
    return _name(tensor.dtype)
