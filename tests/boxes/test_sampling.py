"""Sampling against Python's own integers: every backend must give the same bits."""

import numpy as np
import pytest
from keras import ops

from kvision.boxes import image_fingerprints, mix_bits, sample_candidates, sampling_keys

MASK = 0xFFFFFFFF


def signed(x):
    return x - 2**32 if x >= 2**31 else x


def mixed(x):
    """lowbias32 on unsigned Python integers."""
    x &= MASK
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ (x >> 16)


def key_of(image, seed, step, stream):
    key = stream
    for part in (seed, step, image):
        key = mixed(key ^ (part & MASK))
    return key


def test_mix_bits_is_lowbias32():
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**31), 2**31, 1000).astype("int32")
    values[:4] = 0, 1, -1, -(2**31)
    actual = ops.convert_to_numpy(mix_bits(ops.convert_to_tensor(values)))
    assert actual.dtype == np.int32
    assert actual.tolist() == [signed(mixed(int(x))) for x in values]


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_sampling_keys(dtype):
    images = np.array([0, 1, -1, 139, 2**31 - 1], dtype)
    step = ops.convert_to_tensor(7, "int32")
    actual = ops.convert_to_numpy(sampling_keys(images, 2**31 + 5, step, 2))
    assert actual.tolist() == [signed(key_of(int(i), 2**31 + 5, 7, 2)) for i in images]


def test_fingerprints_hash_the_bits_of_valid_boxes():
    boxes = np.array([[(1.5, 2, 3, 4), (-0.0, 0, 9, 9.25), (7, 7, 8, 8)]], "float32")
    valid = np.array([[True, True, False]])
    bits = (boxes[0, :2] + 0.0).view(np.uint32).ravel().tolist()
    expected = sum(mixed(b ^ mixed(i)) for i, b in enumerate(bits)) & MASK
    actual = ops.convert_to_numpy(image_fingerprints(ops.convert_to_tensor(boxes), valid))
    assert actual.dtype == np.int32
    assert actual.tolist() == [signed(expected)]
    padded = np.pad(boxes, ((0, 0), (0, 4), (0, 0)))
    again = image_fingerprints(ops.convert_to_tensor(padded), np.pad(valid, ((0, 0), (0, 4))))
    assert ops.convert_to_numpy(again).tolist() == actual.tolist()


def expected_sample(positive, negative, key, num_samples, fraction):
    order = sorted(range(len(positive)), key=lambda i: -signed(mixed(i ^ key)))
    chosen = [i for i in order if positive[i]][: int(num_samples * fraction)]
    rest = [i for i in order if negative[i]][: num_samples - len(chosen)]
    return chosen, rest


@pytest.mark.parametrize(
    ("num_samples", "fraction", "positives", "negatives"),
    [
        (16, 0.5, 0.5, 0.5),  # both abound
        (16, 0.5, 0.05, 0.6),  # negatives fill up
        (64, 0.25, 0.2, 0.1),  # fewer than wanted of both
        (16, 0.25, 0.0, 0.8),  # no positives
        (16, 0.25, 0.9, 0.0),  # no negatives
        (500, 0.25, 0.4, 0.4),  # more than there are candidates
        (16, 0.0, 0.4, 0.4),  # negatives only
        (16, 1.0, 0.4, 0.4),  # positives only
    ],
)
def test_sample_candidates_equals_a_loop(num_samples, fraction, positives, negatives):
    rng = np.random.default_rng(2)
    draw = rng.random((4, 120))
    positive, negative = draw < positives, draw > 1 - negatives
    positive[3] = negative[3] = False
    images = np.array([3, 14, 15, 92], "int32")
    keys = sampling_keys(images, 1, ops.convert_to_tensor(5, "int32"), 1)
    indices, num_positive, num_sampled = (
        ops.convert_to_numpy(x)
        for x in sample_candidates(
            ops.convert_to_tensor(positive),
            ops.convert_to_tensor(negative),
            keys,
            num_samples=num_samples,
            positive_fraction=fraction,
        )
    )
    assert indices.shape == (4, min(num_samples, 120))
    assert indices.min() >= 0
    assert indices.max() < 120
    for b in range(4):
        chosen, rest = expected_sample(
            positive[b], negative[b], key_of(int(images[b]), 1, 5, 1), num_samples, fraction
        )
        assert (num_positive[b], num_sampled[b]) == (len(chosen), len(chosen) + len(rest))
        assert indices[b, : num_sampled[b]].tolist() == chosen + rest


def draws(step, *, images=(7,), size=40):
    mask = np.ones((len(images), size), bool)
    keys = sampling_keys(np.array(images, "int32"), 0, ops.convert_to_tensor(step, "int32"), 1)
    indices, _, _ = sample_candidates(
        ops.convert_to_tensor(mask),
        ops.convert_to_tensor(~mask),
        keys,
        num_samples=10,
        positive_fraction=1.0,
    )
    return ops.convert_to_numpy(indices)


def test_sample_depends_on_the_image_and_not_on_its_place():
    both = draws(3, images=(7, 8))
    np.testing.assert_array_equal(both[0], draws(3, images=(7,))[0])
    np.testing.assert_array_equal(both[1], draws(3, images=(8,))[0])
    assert set(both[0]) != set(both[1])


def test_samples_are_uniform():
    counts = np.zeros(40)
    pairs = np.zeros((40, 40))
    for step in range(400):
        chosen = draws(step)[0]
        counts[chosen] += 1
        pairs[np.ix_(chosen, chosen)] += 1
    # 400 draws of 10 out of 40: mean 100, standard deviation sqrt(400 * 1/4 * 3/4) = 8.7.
    assert np.abs(counts - 100).max() < 4 * 8.7
    # A pair is drawn with probability 1/4 * 9/39: mean 23.1, standard deviation 4.7.
    off_diagonal = pairs[~np.eye(40, dtype=bool)]
    assert np.abs(off_diagonal - 23.1).max() < 5 * 4.7
