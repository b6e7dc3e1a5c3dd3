"""The resize policies: how images of any size become the model's size, and their boxes with them.

Readers, metrics and exported graphs all take their arithmetic from here, so that a box drawn on an
original image, carried to the model's image and back, ends where it began. Sizes are computed in
integers: every backend agrees to the pixel.

Two policies:

* ``"letterbox"`` keeps the aspect ratio. The image is scaled by ``min(H / h, W / w)`` and stands in
  the top-left corner; the rest, at the right or at the bottom, is filled with `PADDING_COLOR`.
* ``"stretch"`` scales each axis to fill the whole of ``(H, W)``.
"""

import keras
import numpy as np

RESIZE_POLICIES = ("letterbox", "stretch")
"""Names of the resize policies."""

PADDING_COLOR = (124, 116, 104)
"""Red, green and blue of the letterbox padding: ImageNet's mean colour, rounded."""


def resized_size(original_size, image_size, policy="letterbox"):
    """Height and width that an image takes inside ``image_size``.

    Under ``"letterbox"`` each side is ``floor(side * min(H / h, W / w) + 0.5)``, at least 1 and
    never more than the target.

    Args:
        original_size: int array or tensor ``(2,)`` or ``(..., 2)``: the image's own height and
            width, each at least 1.
        image_size: ``(H, W)``, two positive Python ints: the size of the model's image, padding
            included.
        policy: ``"letterbox"`` or ``"stretch"``.

    Returns:
        int32, of the shape and the kind (NumPy or tensor) of ``original_size``.

    Raises:
        ValueError: an unknown policy, or an ``image_size`` that is not two positive ints.
    """
    target_height, target_width = check_resize("resized_size", image_size, policy)
    xp, cast = _namespace(original_size)
    size = cast(original_size, "int32")
    height, width = size[..., 0], size[..., 1]
    if policy == "stretch":
        resized = height * 0 + target_height, width * 0 + target_width
    else:
        # round(a / b) = (2a + b) // 2b; the limiting axis is the one that reaches its target first.
        resized = (
            xp.minimum((2 * height * target_width + width) // (2 * width), target_height),
            xp.minimum((2 * width * target_height + height) // (2 * height), target_width),
        )
    return xp.maximum(xp.stack(resized, -1), 1)


def resize_boxes(boxes, original_size, image_size, policy="letterbox"):
    """Carry boxes from an original image to the model's image.

    The scale of an axis is exactly its resized length over its original length, so that the image's
    own edge lands on the resized image's edge.

    Args:
        boxes: floating ``(..., N, 4)``, xyxy in pixels of the original image.
        original_size: int ``(2,)`` or ``(..., 2)``, height and width; leading axes as those of
            ``boxes``.
        image_size: ``(H, W)``, two Python ints.
        policy: ``"letterbox"`` or ``"stretch"``.

    Returns:
        Boxes of the same shape and dtype, xyxy in pixels of the model's image.
    """
    boxes, original, resized = _sides(boxes, original_size, image_size, policy)
    return boxes * resized / original


def restore_boxes(boxes, original_size, image_size, policy="letterbox"):
    """Undo `resize_boxes`: from the model's image back to the original one, clipped to it.

    Args:
        boxes: floating ``(..., N, 4)``, xyxy in pixels of the model's image.
        original_size: int ``(2,)`` or ``(..., 2)``, height and width; leading axes as those of
            ``boxes``.
        image_size: ``(H, W)``, two Python ints.
        policy: ``"letterbox"`` or ``"stretch"``.

    Returns:
        Boxes of the same shape and dtype, xyxy in pixels of the original image, none beyond
        its edges.
    """
    xp, _ = _namespace(boxes, original_size)
    boxes, original, resized = _sides(boxes, original_size, image_size, policy)
    return xp.minimum(xp.maximum(boxes * original / resized, 0), original)


def resize_images(
    images, image_size, policy="letterbox", *, interpolation="bilinear", padding=None
):
    """Resize images by a policy: arrays in NumPy, tensors of TensorFlow in TensorFlow.

    Bilinear resizing is antialiased: each pixel is a mean, weighted by a triangle as wide as two
    pixels of the coarser of both images, as in ``tf.image.resize``. Training data and served
    requests pass through here, so that they see equal pixels; those of the two ways differ by at
    most one level of a colour, where a mean lies half-way between two.

    Args:
        images: array or TensorFlow tensor ``(h, w, C)`` or ``(B, h, w, C)``, uint8 or floating in
            0..255; the tensor, in ``tf.data`` and in graphs that are exported, of any size known at
            run time.
        image_size: ``(H, W)``, two Python ints.
        policy: ``"letterbox"`` or ``"stretch"``.
        interpolation: ``"bilinear"`` for pictures, or ``"nearest"`` for maps of labels.
        padding: number, or sequence of C numbers, that fills a letterbox; None is `PADDING_COLOR`
            for pictures (C must be 3 then) and 0 for maps of labels.

    Returns:
        Array or tensor ``(H, W, C)`` or ``(B, H, W, C)`` of the same dtype; integers are rounded to
        nearest.
    """
    image_size = check_resize("resize_images", image_size, policy)
    if interpolation not in ("bilinear", "nearest"):
        raise ValueError(
            "resize_images: `interpolation` must be 'bilinear' or 'nearest'. "
            f"Received: {interpolation!r}."
        )
    picture = interpolation == "bilinear"
    if padding is None:
        padding = PADDING_COLOR if picture else 0
    on_tensorflow = type(images).__module__.startswith("tensorflow")
    resize = _resize_tensors if on_tensorflow else _resize_arrays
    return resize(images, image_size, policy, picture, padding)


def _resize_tensors(images, image_size, policy, picture, padding):
    import tensorflow as tf

    target_height, target_width = image_size
    size = resized_size(tf.shape(images)[-3:-1], image_size, policy)
    method = "bilinear" if picture else "nearest"
    resized = tf.image.resize(images, size, method=method, antialias=picture)
    if picture and images.dtype.is_integer:
        resized = tf.round(resized)
    resized = tf.image.pad_to_bounding_box(resized, 0, 0, target_height, target_width)
    if policy == "letterbox" and np.any(padding):
        inside = tf.logical_and(
            tf.range(target_height)[:, None] < size[0], tf.range(target_width)[None] < size[1]
        )
        resized = tf.where(inside[..., None], resized, tf.constant(padding, resized.dtype))
    resized = tf.cast(resized, images.dtype)
    return tf.ensure_shape(
        resized, (*images.shape[:-3], target_height, target_width, images.shape[-1])
    )


def _resize_arrays(images, image_size, policy, picture, padding):
    images = np.asarray(images)
    original = images.shape[-3:-1]
    height, width = (int(side) for side in resized_size(original, image_size, policy))
    resized = np.empty((*images.shape[:-3], *image_size, images.shape[-1]), images.dtype)
    if policy == "letterbox":
        resized[...] = np.asarray(padding).astype(images.dtype)
    if picture:
        rows, columns = map(_triangle_weights, original, (height, width))
        inside = np.einsum("yh,...hwc->...ywc", rows, images.astype("float32"), optimize=True)
        inside = np.einsum("xw,...ywc->...yxc", columns, inside, optimize=True)
        if images.dtype.kind in "iu":
            inside = np.rint(inside)
    else:
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)
            for old, new in zip(original, (height, width), strict=True)
        )
        inside = images[..., rows[:, None], columns, :]
    resized[..., :height, :width, :] = inside
    return resized


def _triangle_weights(old, new):
    """What each of ``new`` pixels takes from each of ``old`` ones: float32 ``(new, old)``."""
    step = old / new
    distances = np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * step
    weights = np.maximum(1 - np.abs(distances) / max(step, 1), 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype("float32")


def check_resize(name, image_size, policy):
    """Check the two arguments that say how images are resized.

    Args:
        name: str, the function or class that speaks in the error.
        image_size: ``(H, W)``, to be two positive ints.
        policy: to be one of `RESIZE_POLICIES`.

    Returns:
        ``(H, W)`` as Python ints.

    Raises:
        ValueError: either argument is something else.
    """
    if policy not in RESIZE_POLICIES:
        raise ValueError(
            f"{name}: the resize policy must be one of {RESIZE_POLICIES}. Received: {policy!r}."
        )
    return check_image_size(name, image_size)


def check_image_size(name, image_size):
    """Check the size of an image.

    Args:
        name: str, the function or class that speaks in the error.
        image_size: ``(H, W)``, to be two positive ints.

    Returns:
        ``(H, W)`` as Python ints.

    Raises:
        ValueError: it is something else.
    """
    try:
        height, width = (int(side) for side in image_size)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ValueError(
            f"{name}: `image_size` must be (height, width), both positive. "
            f"Received: {image_size!r}."
        )
    return height, width


def _sides(boxes, original_size, image_size, policy):
    """The boxes, and the original and resized (w, h, w, h) in their dtype, ready to broadcast."""
    xp, cast = _namespace(boxes, original_size)
    dtype = keras.backend.standardize_dtype(boxes.dtype) if hasattr(boxes, "dtype") else "float32"
    boxes = cast(boxes, dtype if "float" in dtype else "float32")
    original = cast(original_size, "int32")
    resized = resized_size(original, image_size, policy)

    def as_box(size):
        size = cast(size, keras.backend.standardize_dtype(boxes.dtype))
        return xp.stack([size[..., 1], size[..., 0]] * 2, -1)[..., None, :]

    return boxes, as_box(original), as_box(resized)


def _namespace(*arrays):
    """Where to compute with these arrays, and how to cast there.

    NumPy stays NumPy and a TensorFlow tensor stays TensorFlow, also inside ``tf.data`` while Keras
    runs on another backend; any other tensor belongs to Keras' own backend.
    """
    kinds = {type(array).__module__.partition(".")[0] for array in arrays}
    if "tensorflow" in kinds:
        import tensorflow as tf

        return tf, tf.cast
    if kinds <= {"numpy", "builtins"}:
        return np, lambda array, dtype: np.asarray(array).astype(dtype)
    return keras.ops, keras.ops.cast
