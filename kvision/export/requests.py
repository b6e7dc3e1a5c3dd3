"""Encoded images as a client sends them: told whole from damaged inside the graph, and decoded.

TensorFlow fails a whole request on one string that it cannot decode. Every string is therefore
looked at first: a whole JPEG begins with ``FF D8 FF`` and holds the end marker ``FF D9`` in its
last `TAIL` bytes, a whole PNG begins with its eight-byte signature and holds its ``IEND`` chunk
there. What some writers append after the end marker may so be up to about `TAIL` bytes long.
"""

_START = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_END = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}

TAIL = 64
"""How many bytes at the end of a string are searched for the end marker."""


def looks_whole(encoded):
    """Tell the strings that are a JPEG or PNG image from first to last byte.

    Damage between the markers is not seen.

    Args:
        encoded: TensorFlow string tensor ``(B,)``.

    Returns:
        bool tensor ``(B,)``.
    """
    import tensorflow as tf

    head = tf.io.decode_raw(encoded, tf.uint8, fixed_length=8)
    tail = tf.strings.substr(tf.strings.join(["\0" * TAIL, encoded]), -TAIL, TAIL)
    tail = tf.io.decode_raw(tail, tf.uint8, fixed_length=TAIL)
    jpeg, png = (_holds(head[:, : len(_START[k])], _START[k]) & _holds(tail, _END[k]) for k in _END)
    return jpeg | png


def decode_image(encoded):
    """Decode one JPEG or PNG image to RGB.

    Grey and palette images become RGB, an alpha channel is dropped, 16-bit samples keep their upper
    eight bits. An orientation tag is not applied.

    Args:
        encoded: TensorFlow string tensor, scalar.

    Returns:
        uint8 ``(h, w, 3)``.
    """
    import tensorflow as tf

    return tf.io.decode_png(encoded, channels=3)  # decodes JPEG too, with a static rank


def _holds(rows, pattern):
    """Whether each row of uint8 ``(B, n)`` holds the bytes of the pattern, one after another."""
    import tensorflow as tf

    places = rows.shape[1] - len(pattern) + 1
    equal = [rows[:, i : i + places] == byte for i, byte in enumerate(pattern)]
    return tf.reduce_any(tf.reduce_all(tf.stack(equal), axis=0), axis=-1)
