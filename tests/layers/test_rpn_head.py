"""The head of the region proposal network."""

import keras
import numpy as np
import pytest
from keras import ops

from kvision.layers import RPNHead

SIZES = {"P2": (6, 7), "P3": (3, 4), "P4": (2, 2)}
TOTAL = 3 * (42 + 12 + 4)


def pyramid():
    rng = np.random.default_rng(0)
    return {
        name: ops.convert_to_tensor(rng.normal(size=(2, *size, 5)).astype("float32"))
        for name, size in SIZES.items()
    }


def head(**kwargs):
    """A head with weights large enough to tell its outputs apart."""
    layer = RPNHead(3, filters=8, **kwargs)
    layer.build({name: (None, None, None, 5) for name in SIZES})
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape).astype("float32") for w in layer.get_weights()])
    return layer


def test_outputs_are_in_the_order_level_row_column_anchor():
    layer, maps = head(), pyramid()
    logits, deltas = (ops.convert_to_numpy(x) for x in layer(maps))
    assert logits.shape == (2, TOTAL)
    assert deltas.shape == (2, TOTAL, 4)
    start = 0
    for name, (height, width) in SIZES.items():
        end = start + 3 * height * width
        hidden = layer.conv(maps[name])
        for actual, conv in ((logits, layer.objectness), (deltas, layer.offsets)):
            expected = ops.convert_to_numpy(conv(hidden))
            np.testing.assert_allclose(actual[:, start:end].ravel(), expected.ravel(), rtol=1e-5)
        start = end


def test_outputs_at_are_those_of_the_whole_maps():
    layer, maps = head(), pyramid()
    logits, deltas = (ops.convert_to_numpy(x) for x in layer(maps))
    indices = np.stack([np.arange(TOTAL), np.arange(TOTAL)[::-1]]).astype("int32")
    own_logits, own_deltas = layer.outputs_at(maps, ops.convert_to_tensor(indices))
    rows = np.arange(2)[:, None]
    np.testing.assert_allclose(
        ops.convert_to_numpy(own_logits), logits[rows, indices], rtol=1e-4, atol=1e-4
    )
    np.testing.assert_allclose(
        ops.convert_to_numpy(own_deltas), deltas[rows, indices], rtol=1e-4, atol=1e-4
    )


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="reads TensorFlow's gradients")
def test_outputs_at_have_the_gradients_of_the_whole_maps():
    import tensorflow as tf

    layer, maps = head(), pyramid()
    indices = np.random.default_rng(2).integers(0, TOTAL, (2, 20)).astype("int32")
    variables = [v.value for v in layer.trainable_variables]
    found = []
    for sparse in (True, False):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            if sparse:
                logits, deltas = layer.outputs_at(maps, indices)
            else:
                logits, deltas = (tf.gather(x, indices, batch_dims=1) for x in layer(maps))
            loss = tf.reduce_sum(tf.sin(logits)) + tf.reduce_sum(tf.sin(deltas))
        found.append(tape.gradient(loss, [*variables, *maps.values()]))
    for actual, expected in zip(*found, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)


def test_mixed_precision_gives_float32():
    layer, maps = head(dtype="mixed_bfloat16"), pyramid()
    indices = ops.convert_to_tensor(np.zeros((2, 4), "int32"))
    for outputs in (layer(maps), layer.outputs_at(maps, indices)):
        assert {keras.backend.standardize_dtype(x.dtype) for x in outputs} == {"float32"}


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="RPNHead: `num_anchors`"):
        RPNHead(0)
