"""Tensors, arrays and vector-Jacobian products on every Keras backend."""

import keras
import numpy as np


def to_tensor(array):
    """Returns the backend's tensor of a NumPy array, of the same dtype.

    Args:
        array: NumPy array, of `ml_dtypes.bfloat16` too.
    """
    array = np.asarray(array)
    if array.dtype.name == "bfloat16":
        return keras.ops.cast(keras.ops.convert_to_tensor(array.astype("float32")), "bfloat16")
    return keras.ops.convert_to_tensor(array, dtype=array.dtype.name)


def to_numpy(tensor):
    """Returns a NumPy array of a tensor's values, half types as float32.

    Args:
        tensor: Tensor of any backend.
    """
    if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor)))


def vjp(function, inputs, output_gradient):
    """Returns, as NumPy arrays, `function(inputs)` and its gradient to each array of `inputs`.

    Args:
        function: Takes a structure of tensors, returns a tensor or a structure of them.
        inputs: Structure of arrays or tensors, such as one array or a dict of arrays.
        output_gradient: Structure like the output, the gradient that arrives at each.

    Returns:
        The outputs and the gradients, the latter in the form of `inputs`, `None` where the output
        does not depend on an input. Half types come back as float32.
    """
    tree = keras.tree
    inputs = tree.map_structure(_as_tensor, inputs)

    def upstream(outputs):
        return [
            keras.ops.cast(_as_tensor(gradient), output.dtype)
            for gradient, output in zip(
                tree.flatten(output_gradient), tree.flatten(outputs), strict=True
            )
        ]

    backend = keras.backend.backend()
    leaves = tree.flatten(inputs)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(leaves)
            outputs = function(inputs)
        gradients = tape.gradient(tree.flatten(outputs), leaves, upstream(outputs))
        gradients = [None if g is None else tf.convert_to_tensor(g) for g in gradients]
    elif backend == "jax":
        import jax

        outputs, pull_back = jax.vjp(function, inputs)
        gradients = tree.flatten(pull_back(tree.pack_sequence_as(outputs, upstream(outputs)))[0])
    else:
        import torch

        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        outputs = function(tree.pack_sequence_as(inputs, leaves))
        flat = [output for output in tree.flatten(outputs) if output.requires_grad]
        arriving = [
            gradient
            for gradient, output in zip(upstream(outputs), tree.flatten(outputs), strict=True)
            if output.requires_grad
        ]
        gradients = torch.autograd.grad(flat, leaves, arriving, allow_unused=True)
    gradients = [None if gradient is None else to_numpy(gradient) for gradient in gradients]
    return tree.map_structure(to_numpy, outputs), tree.pack_sequence_as(inputs, gradients)


def _as_tensor(value):
    return to_tensor(value) if isinstance(value, np.ndarray) else keras.ops.convert_to_tensor(value)
