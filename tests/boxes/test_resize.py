import fractions
import importlib.util
import math

import keras
import numpy as np
import pytest

from kvision.boxes import resize


def exact_letterbox(height, width, target_height, target_width):
    scale = min(fractions.Fraction(target_height, height), fractions.Fraction(target_width, width))
    half = fractions.Fraction(1, 2)
    return [
        min(max(math.floor(side * scale + half), 1), target)
        for side, target in ((height, target_height), (width, target_width))
    ]


@pytest.mark.parametrize(
    ("original", "image_size", "expected"),
    [
        ((480, 640), (320, 320), (240, 320)),
        ((640, 480), (320, 320), (320, 240)),
        ((100, 100), (256, 512), (256, 256)),
        ((3, 4), (6, 6), (5, 6)),  # 4.5 rounds up
        ((1, 5000), (64, 64), (1, 64)),  # never below one pixel
    ],
)
def test_letterbox_size_of_known_cases(original, image_size, expected):
    assert tuple(resize.resized_size(original, image_size, "letterbox")) == expected
    assert tuple(resize.resized_size(original, image_size, "stretch")) == image_size


def test_letterbox_size_equals_exact_rational_arithmetic():
    rng = np.random.default_rng(3)
    sizes = rng.integers(1, 6000, (400, 2))
    for target in ((320, 320), (511, 97), (1333, 800)):
        expected = [exact_letterbox(int(h), int(w), *target) for h, w in sizes]
        np.testing.assert_array_equal(resize.resized_size(sizes, target, "letterbox"), expected)


@pytest.mark.parametrize("policy", resize.RESIZE_POLICIES)
def test_the_image_edge_lands_on_the_resized_edge_exactly(policy):
    sizes = np.random.default_rng(4).integers(1, 3000, (300, 2))
    whole = np.concatenate([np.zeros_like(sizes), sizes[:, ::-1]], -1).astype("float32")[:, None]
    height, width = resize.resized_size(sizes, (320, 416), policy).T
    resized = resize.resize_boxes(whole, sizes, (320, 416), policy)[:, 0]
    np.testing.assert_array_equal(resized[:, 2:], np.stack([width, height], -1))
    np.testing.assert_array_equal(
        resize.restore_boxes(resized[:, None], sizes, (320, 416), policy), whole
    )


@pytest.mark.parametrize("policy", resize.RESIZE_POLICIES)
def test_restore_undoes_resize_and_clips_to_the_image(policy):
    boxes = np.array([[10.5, 20.25, 300.0, 410.0], [0, 0, 0, 0]], "float32")
    resized = resize.resize_boxes(boxes, (427, 640), (320, 320), policy)
    np.testing.assert_allclose(
        resize.restore_boxes(resized, (427, 640), (320, 320), policy), boxes, atol=1e-4
    )
    outside = np.array([[-5.0, -9.0, 900.0, 900.0]], "float32")
    np.testing.assert_array_equal(
        resize.restore_boxes(outside, (427, 640), (320, 320), policy), [[0, 0, 640, 427]]
    )


def test_boxes_keep_their_dtype_and_backend_tensors_agree_with_numpy():
    boxes = np.random.default_rng(5).uniform(0, 300, (2, 3, 4))
    sizes = np.array([[427, 640], [300, 200]])
    for dtype in ("float32", "float64"):
        expected = resize.resize_boxes(boxes.astype(dtype), sizes, (320, 256))
        assert expected.dtype == dtype
    for function in (resize.resize_boxes, resize.restore_boxes):
        expected = function(boxes.astype("float32"), sizes, (320, 256))
        tensors = function(
            keras.ops.convert_to_tensor(boxes, "float32"),
            keras.ops.convert_to_tensor(sizes),
            (320, 256),
        )
        assert keras.ops.is_tensor(tensors)
        np.testing.assert_allclose(keras.ops.convert_to_numpy(tensors), expected, rtol=1e-6)


def test_bad_arguments_are_refused_by_name():
    with pytest.raises(
        ValueError, match=r"resized_size: the resize policy must be one of .*'crop'"
    ):
        resize.resized_size((4, 4), (8, 8), "crop")
    with pytest.raises(ValueError, match=r"resized_size: `image_size` must be \(height, width\)"):
        resize.resized_size((4, 4), (8, 0))
    with pytest.raises(ValueError, match="`image_size`.*320"):
        resize.resized_size((4, 4), 320)


@pytest.fixture
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture(params=["numpy", "tensorflow"])
def image_of(request):
    """Makes an image of an array."""
    if request.param == "numpy":
        return np.asarray
    return pytest.importorskip("tensorflow").constant


def test_boxes_inside_tf_data(tf):
    boxes = np.array([[1, 2, 30, 40]], "float32")
    dataset = tf.data.Dataset.from_tensors((boxes, [427, 640]))
    dataset = dataset.map(lambda b, size: resize.resize_boxes(b, size, (320, 320)))
    expected = resize.resize_boxes(boxes, (427, 640), (320, 320))
    np.testing.assert_allclose(next(dataset.as_numpy_iterator()), expected, rtol=1e-6)


def test_letterbox_puts_the_image_top_left_and_pads_with_the_mean_colour(image_of):
    image = np.full((20, 40, 3), 200, "uint8")
    resized = np.asarray(resize.resize_images(image_of(image), (32, 32)))
    assert resized.dtype == np.uint8
    np.testing.assert_array_equal(resized[:16], 200)
    np.testing.assert_array_equal(resized[16:], np.broadcast_to(resize.PADDING_COLOR, (16, 32, 3)))


def test_a_marked_rectangle_moves_with_its_box(image_of):
    image = np.zeros((60, 90, 3), "uint8")
    image[12:33, 15:75] = 255
    box = np.array([[15, 12, 75, 33]], "float32")
    for policy in resize.RESIZE_POLICIES:
        resized = np.asarray(resize.resize_images(image_of(image), (120, 120), policy))[..., 0]
        height, width = resize.resized_size((60, 90), (120, 120), policy)
        rows, columns = np.nonzero(resized[:height, :width] > 127)
        found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(
            found, resize.resize_boxes(box, (60, 90), (120, 120), policy)[0], atol=0.5
        )


def test_labels_are_resized_by_nearest_and_padded_with_zero(image_of):
    labels = np.array([[3, 9], [9, 3]], "int32")[None, ..., None]
    resized = resize.resize_images(image_of(labels), (4, 8), interpolation="nearest")
    resized = np.asarray(resized)
    assert resized.dtype == np.int32
    np.testing.assert_array_equal(
        resized[0, ..., 0],
        np.pad(np.kron(labels[0, ..., 0], np.ones((2, 2), int)), ((0, 0), (0, 4))),
    )


def test_an_image_of_the_target_size_is_unchanged(tf):
    image = np.random.default_rng(6).integers(0, 256, (24, 32, 3)).astype("uint8")
    unknown = tf.function(
        lambda x: resize.resize_images(x, (24, 32)),
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
    )
    np.testing.assert_array_equal(unknown(image), image)
    np.testing.assert_array_equal(resize.resize_images(image, (24, 32)), image)


def test_an_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="'cubic'"):
        resize.resize_images(np.zeros((2, 2, 3)), (4, 4), interpolation="cubic")


@pytest.mark.parametrize(("height", "width"), [(31, 47), (120, 80), (60, 90), (23, 200), (1, 3)])
def test_pictures_are_those_of_pillow(image_of, height, width):
    """Its bilinear filter is the same triangle; its weights have 8 bits, and it rounds twice."""
    Image = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(7).integers(0, 256, (60, 90, 3)).astype("uint8")
    expected = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    actual = np.asarray(resize.resize_images(image_of(picture), (height, width), "stretch"))
    assert np.abs(actual.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("policy", resize.RESIZE_POLICIES)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
def test_arrays_are_resized_as_tensors_are(tf, policy, dtype, interpolation):
    images = np.random.default_rng(8).integers(0, 256, (2, 57, 91, 3)).astype(dtype)
    for size in ((31, 44), (128, 96), (57, 91), (7, 300)):
        arguments = (size, policy)
        actual = resize.resize_images(images, *arguments, interpolation=interpolation)
        tensors = resize.resize_images(tf.constant(images), *arguments, interpolation=interpolation)
        assert actual.dtype == dtype
        assert actual.shape == tensors.shape == (2, *size, 3)
        # TensorFlow reckons in float32 where a pixel lies: a weight is off by up to 91 * 2**-23. Of
        # means that end in a half, that makes the one or the other colour.
        atol = 1 if dtype == "uint8" and interpolation == "bilinear" else 91 * 2**-23 * 255
        np.testing.assert_allclose(actual.astype("float64"), tensors, rtol=0, atol=atol)


@pytest.mark.parametrize("interpolation", ["bilinear", "nearest"])
@pytest.mark.parametrize("padding", [0, 9, (1, 2, 3), np.array([0, 0, 5])])
def test_a_letterbox_is_filled_with_what_is_asked(interpolation, padding):
    images = np.full((1, 4, 8, 3), 100, "uint8")
    tensors = [images]
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        tensors.append(tf.constant(images))
    for given in tensors:
        found = resize.resize_images(given, (6, 6), interpolation=interpolation, padding=padding)
        np.testing.assert_array_equal(found[:, :3], 100)
        np.testing.assert_array_equal(found[:, 3:], np.broadcast_to(padding, (1, 3, 6, 3)))
