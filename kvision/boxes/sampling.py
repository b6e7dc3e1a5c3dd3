"""Random samples of candidates: the same bits on every backend and for every split of a batch.

The randomness is a hash of what is sampled, not a stream: of a seed, a step, the image, and the
candidate's index. An image's sample therefore depends neither on its place in the batch nor on
the replica that has it. All of it is int32 arithmetic modulo 2^32, which TensorFlow, JAX and
PyTorch do alike.
"""

import numpy as np
from keras import ops

from kvision.boxes.gather import gather_rows


def mix_bits(x):
    """A hash of 32 bits to 32 bits without collisions (Wellons' lowbias32, 2018).

    Args:
        x: Int32 tensor.

    Returns:
        Int32 tensor of the same shape; different values stay different.
    """
    x = _fold(x, 16) * _signed(0x7FEB352D)
    x = _fold(x, 15) * _signed(0x846CA68B)
    return _fold(x, 16)


def sampling_keys(images, seed, step, stream):
    """A key for each image, for `sample_candidates`.

    Args:
        images: Int32 or int64 tensor `(B,)` that tells images apart; of int64 the low 32 bits.
        seed: Python integer.
        step: Int32 scalar tensor, the training step.
        stream: Python integer that tells apart the samples taken of one image in one step.

    Returns:
        Int32 tensor `(B,)`.
    """
    key = ops.cast(_signed(stream % 2**32), "int32")
    for part in (_signed(seed % 2**32), step, images):
        key = mix_bits(ops.bitwise_xor(key, ops.cast(part, "int32")))
    return key


def image_fingerprints(boxes, valid):
    """A hash of each image's ground truth, to tell images apart that have no number.

    Args:
        boxes: Float tensor `(B, M, 4)`.
        valid: Bool tensor `(B, M)`: false marks padding, which does not enter.

    Returns:
        Int32 tensor `(B,)`; images with the same boxes have the same.
    """
    bits = ops.view(ops.cast(boxes, "float32") + 0.0, "int32")
    positions = ops.reshape(ops.arange(ops.shape(boxes)[1] * 4, dtype="int32"), (-1, 4))
    hashed = mix_bits(ops.bitwise_xor(bits, mix_bits(positions)))
    return ops.cast(ops.sum(ops.where(valid[..., None], hashed, 0), axis=(1, 2)), "int32")


def sample_candidates(positive, negative, keys, *, num_samples, positive_fraction):
    """Draws positive and negative candidates of each image at random, without replacement.

    At most `positive_fraction` of `num_samples` are positive, and negatives fill the rest, as
    far as there are any.

    Args:
        positive: Bool tensor `(B, N)`.
        negative: Bool tensor `(B, N)`, nowhere true where `positive` is. `N` is static.
        keys: Int32 tensor `(B,)` of `sampling_keys`.
        num_samples: Positive int.
        positive_fraction: Number in [0, 1].

    Returns:
        `(indices, num_positive, num_sampled)`, int32 tensors `(B, min(num_samples, N))`, `(B,)`
        and `(B,)`: in each image the positives come first, then the negatives, then padding.
    """
    num_candidates = positive.shape[1]
    max_positive = min(int(num_samples * positive_fraction), num_candidates)
    num_samples = min(num_samples, num_candidates)
    counter = ops.arange(num_candidates, dtype="int32")
    priority = mix_bits(ops.bitwise_xor(counter[None, :], keys[:, None]))

    num_positive = ops.minimum(_count(positive), max_positive)
    num_negative = ops.minimum(_count(negative), num_samples - num_positive)
    drawn = _draw(priority, negative, num_samples)
    if max_positive:
        slot = ops.arange(num_samples, dtype="int32")[None, :]
        shift = num_positive[:, None]
        first = _draw(priority, positive, max_positive)
        first = gather_rows(first, ops.minimum(slot, max_positive - 1))
        drawn = ops.where(slot < shift, first, gather_rows(drawn, ops.maximum(slot - shift, 0)))
    return drawn, num_positive, num_positive + num_negative


def _draw(priority, mask, count):
    """Indices `(B, count)` of the highest priorities, those in the mask before all others."""
    candidates = ops.where(mask, priority, np.iinfo(np.int32).min)
    return ops.cast(ops.top_k(candidates, count)[1], "int32")


def _signed(constant):
    """The int32 with the bits of an integer in [0, 2^32)."""
    return constant - 2**32 if constant >= 2**31 else constant


def _fold(x, bits):
    """`x ^ (x >> bits)` with zeros shifted in, where an int32 shift copies the sign."""
    shifted = ops.bitwise_and(ops.right_shift(x, bits), (1 << (32 - bits)) - 1)
    return ops.bitwise_xor(x, shifted)


def _count(mask):
    return ops.sum(ops.cast(mask, "int32"), axis=1)
