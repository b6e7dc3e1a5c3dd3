"""Native kernels as TensorFlow ops, eagerly, in graphs and under XLA.

They stand in two libraries: `_tf_ops.so` has the ops and their kernels, and is all that a served
model needs; `_xla_ops.so` has what makes XLA compile them.
"""

import threading

import numpy as np

from kvision.ops import library
from kvision.ops.gradients import Recorded, gradient_of

_lock = threading.RLock()
_loaded = None


def load():
    """The TensorFlow ops; the first call loads the libraries and registers the gradients.

    Returns:
        Module with a function for every op, such as `kvision_roi_align`.

    Raises:
        RuntimeError: If the library is missing, was built for another TensorFlow, or cannot be
            loaded.
    """
    global _loaded
    with _lock:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def _load():
    info = library.build_info()
    path = library.library_path()
    if not info or not path.exists():
        raise RuntimeError(_why_missing(info))
    try:
        import tensorflow as tf
    except ImportError as error:
        raise RuntimeError(
            "kvision: the native library needs TensorFlow, which is not installed."
        ) from error
    if info["tensorflow"] != tf.__version__:
        raise RuntimeError(
            f"kvision: the native library was built for TensorFlow {info['tensorflow']}, but "
            f"TensorFlow {tf.__version__} is installed; reinstall kvision beside it, or install "
            f"TensorFlow {info['tensorflow']}."
        )
    ops = _load_library(path)
    _load_library(path.with_name("_xla_ops.so"))
    for op in library.module().ops():
        _register_gradient(op)
    return ops


def _load_library(path):
    import tensorflow as tf

    try:
        return tf.load_op_library(str(path))
    except tf.errors.OpError as error:
        raise RuntimeError(f"kvision: TensorFlow could not load {path}: {error.message}") from error


def _why_missing(info):
    try:
        library.module()
    except ImportError as error:
        return library.why_not_built(str(error))
    return library.why_not_built(
        f"{library.library_path().name} is not beside it"
        if info.get("tensorflow")
        else "it was built without TensorFlow"
    )


def call(name, tensors, attributes):
    """See `kvision.ops.native.call`."""
    op = library.description(name)
    inputs = {rule["name"]: tensor for rule, tensor in zip(op["inputs"], tensors, strict=True)}
    given, attributes = attributes, dict(attributes)
    for rule in op["attributes"]:
        if rule["type"] == "list[int]":
            shapes = attributes[rule["name"]]
            attributes[rule["name"]] = _host_tensor(shapes)
            if rule["name"] == op["outputs"][0]["shape_from"] and op["outputs"][0]["list"]:
                # TensorFlow does not count them.
                attributes[op["outputs"][0]["list"]] = len(shapes)
    results = getattr(load(), f"kvision_{name}")(**inputs, **attributes)
    _set_known_sizes(op, results, given)
    return results


def _set_known_sizes(op, results, attributes):
    """Tells a graph the sizes of results that are numbers in a shape whose others are tensors."""
    import tensorflow as tf

    if tf.executing_eagerly():
        return
    tensors = results if isinstance(results, (list, tuple)) else [results]
    rules = op["outputs"] * (len(tensors) if op["outputs"][0]["list"] else 1)
    for number, (rule, tensor) in enumerate(zip(rules, tensors, strict=True)):
        shape = attributes.get(rule["shape_from"])
        if isinstance(shape, (list, tuple)):
            shape = shape[number] if rule["list"] else shape
            tensor.set_shape([size if isinstance(size, int) else None for size in shape])


def _host_tensor(sizes):
    """Sizes as int64: a tensor where a graph does not know one of them yet."""
    import tensorflow as tf

    if any(tf.is_tensor(size) for size in tf.nest.flatten(sizes)):
        return tf.cast(tf.convert_to_tensor(sizes), tf.int64)
    return np.asarray(sizes, "int64")


def _register_gradient(op):
    import tensorflow as tf

    op_type = "Kvision>" + op["name"].title().replace("_", "")
    rule = gradient_of(op["name"])
    if rule is None:
        tf.no_gradient(op_type)
    else:
        tf.RegisterGradient(op_type)(_Gradient(op, rule))


class _Gradient:
    """A gradient as TensorFlow wants it: a function of an op and of its outputs' gradients."""

    def __init__(self, op, rule):
        self._rule = rule
        self._inputs = op["inputs"]
        self._outputs = op["outputs"]
        self._attributes = [a for a in op["attributes"] if not a["type"].startswith("list")]
        self._host = [a for a in op["attributes"] if a["type"].startswith("list")]

    def __call__(self, op, *output_gradients):
        import tensorflow as tf

        num_tensors = len(op.inputs) - len(self._host)
        inputs = _grouped(self._inputs, list(op.inputs[:num_tensors]))
        outputs = _grouped(self._outputs, list(op.outputs))
        values = {a["name"]: op.get_attr(a["name"]) for a in self._attributes}
        values = {
            name: value.decode() if isinstance(value, bytes) else value
            for name, value in values.items()
        }
        host = zip((a["name"] for a in self._host), op.inputs[num_tensors:], strict=True)
        tensors = inputs | outputs
        recorded = Recorded(
            {name: tensors[name] for name in self._rule.keeps},
            {name: _shapes(value) for name, value in inputs.items()},
            {**values, **dict(host)},
        )
        wanted = _grouped(self._outputs, list(output_gradients))
        floating = [r["name"] for r in self._outputs if r["dtype"] not in ("int32", "bool")]
        found = self._rule.function(recorded, *(wanted[name] for name in floating))
        gradients = []
        for name, value in inputs.items():
            if isinstance(value, list):
                gradients += found.get(name) or [None] * len(value)
            else:
                gradients.append(found.get(name))
        if not tf.executing_eagerly():
            # A shape of which one size is unknown is unknown to the gradient's own op.
            for gradient, tensor in zip(gradients, op.inputs, strict=False):
                if gradient is not None:
                    gradient.set_shape(tensor.shape)
        return gradients + [None] * len(self._host)


def _grouped(rules, tensors):
    """The tensors by the names of rules; those of a list are a list."""
    length = len(tensors) - len(rules) + 1
    grouped = {}
    for rule in rules:
        grouped[rule["name"]] = [tensors.pop(0) for _ in range(length)] if rule["list"] else None
        if not rule["list"]:
            grouped[rule["name"]] = tensors.pop(0)
    return grouped


def _shapes(value):
    from keras import ops

    return [_shapes(v) for v in value] if isinstance(value, list) else ops.shape(value)
