"""Vector-Jacobian products on every Keras backend."""

import keras
import numpy as np


def vjp(function, inputs, output_gradient):
    """Returns, as NumPy arrays, `function(inputs)` and its gradient to each array of `inputs`.

    `inputs` is an array or a dict of arrays; the gradients have its form. Data types with no
    NumPy counterpart come back as float32.
    """
    backend = keras.backend.backend()
    inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(inputs)
            output = function(inputs)
        gradients = tape.gradient(output, inputs, tf.cast(output_gradient, output.dtype))
    elif backend == "jax":
        import jax

        output, pull_back = jax.vjp(function, inputs)
        (gradients,) = pull_back(keras.ops.cast(output_gradient, output.dtype))
    else:
        import torch

        leaves = [leaf.detach().requires_grad_() for leaf in keras.tree.flatten(inputs)]
        output = function(keras.tree.pack_sequence_as(inputs, leaves))
        gradients = torch.autograd.grad(
            output, leaves, keras.ops.cast(output_gradient, output.dtype)
        )
        gradients = keras.tree.pack_sequence_as(inputs, list(gradients))
    return to_numpy(output), keras.tree.map_structure(to_numpy, gradients)


def to_numpy(tensor):
    if keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16"):
        tensor = keras.ops.cast(tensor, "float32")
    return np.asarray(keras.ops.convert_to_numpy(keras.ops.stop_gradient(tensor)))
