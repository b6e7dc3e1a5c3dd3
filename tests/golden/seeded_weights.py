"""Weights that any environment can make again from the variables' names and shapes.

A golden value then needs no weight file: both libraries draw the same arrays with NumPy. The
scales are torchvision's initial ones, with these differences, each so that a mistake shows:

- normalisations are not the identity: scale in [0.5, 1.5], offset and mean about 0.1, variance
  in [0.5, 1.5]; the last scale of each residual branch is a fifth of that, which keeps the
  features near 1 at every depth although no statistics were ever collected;
- biases that torchvision starts at zero are about 0.01;
- `CLASS_LOGIT_GAIN` spreads the class scores, which would all be 1 / num_classes otherwise.
"""

import zlib

import numpy as np

CLASS_LOGIT_GAIN = 40.0


def seeded_state_dict(shapes):
    """Arrays for a torchvision state dict.

    Args:
        shapes: Mapping of torchvision's variable names to shapes (convolution: out, in, h, w).

    Returns:
        Mapping of the same names to float32 arrays; counters are left out.
    """
    return {
        name: _draw(name, tuple(shape), shapes)
        for name, shape in shapes.items()
        if not name.endswith("num_batches_tracked")
    }


def seed_keras_weights(model):
    """Gives weights of the same kind to a model of keras.applications, by its layers' names."""
    for layer in model.layers:
        for variable in layer.weights:
            rng = np.random.default_rng(zlib.crc32(f"{layer.name}/{variable.name}".encode()))
            variable.assign(_draw_keras(rng, layer.name, variable.name, tuple(variable.shape)))


def _draw_keras(rng, layer, kind, shape):
    if kind == "moving_variance":
        return rng.uniform(0.5, 1.5, shape)
    if kind == "gamma":
        ends_branch = {"_3_bn": 0.2, "_project_BN": 0.5}  # of ResNet and MobileNet v2
        scale = next((value for end, value in ends_branch.items() if layer.endswith(end)), 1.0)
        return rng.uniform(0.5, 1.5, shape) * scale
    if kind in ("beta", "moving_mean", "bias"):
        return rng.normal(0.0, 0.1, shape)
    fan_in = np.prod(shape[:2]) if shape[-1] == 1 else np.prod(shape[:-1])
    return rng.normal(0.0, np.sqrt(2.0 / fan_in), shape)


def _draw(name, shape, names):
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    module, kind = name.rsplit(".", 1)
    if f"{module}.running_mean" in names:
        array = _draw_normalization(rng, kind, shape, _ends_branch(module, names))
    elif kind == "bias" and "roi_heads" not in name:
        array = rng.normal(0.0, 0.01, shape)
    elif name.startswith("rpn."):
        array = rng.normal(0.0, 0.01, shape)
    elif ".fpn." in name or name.startswith("fpn."):
        limit = np.sqrt(3.0 / np.prod(shape[1:]))
        array = rng.uniform(-limit, limit, shape)
    elif len(shape) == 4:
        fan_out = (1 if shape[1] == 1 else shape[0]) * shape[2] * shape[3]  # 1 if depthwise
        array = rng.normal(0.0, np.sqrt(2.0 / fan_out), shape)
    else:
        fan_in = names[f"{module}.weight"][1]
        array = rng.uniform(-1.0, 1.0, shape) / np.sqrt(fan_in)
        if "cls_score" in name:
            array = array * CLASS_LOGIT_GAIN
    return array.astype("float32")


def _draw_normalization(rng, kind, shape, ends_branch):
    if kind == "running_var":
        return rng.uniform(0.5, 1.5, shape)
    if kind == "weight":
        return rng.uniform(0.5, 1.5, shape) * (0.2 if ends_branch else 1.0)
    return rng.normal(0.0, 0.1, shape)


def _ends_branch(module, names):
    block, _, norm = module.rpartition(".")
    last = "bn3" if f"{block}.bn3.weight" in names else "bn2"
    return ".layer" in f".{block}" and norm == last
