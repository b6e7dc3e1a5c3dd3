import fractions
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


class TestTensorFlow:
    @pytest.fixture
    def tf(self):
        return pytest.importorskip("tensorflow")

    def test_boxes_inside_tf_data(self, tf):
        boxes = np.array([[1, 2, 30, 40]], "float32")
        dataset = tf.data.Dataset.from_tensors((boxes, [427, 640]))
        dataset = dataset.map(lambda b, size: resize.resize_boxes(b, size, (320, 320)))
        expected = resize.resize_boxes(boxes, (427, 640), (320, 320))
        np.testing.assert_allclose(next(dataset.as_numpy_iterator()), expected, rtol=1e-6)

    def test_letterbox_puts_the_image_top_left_and_pads_with_the_mean_colour(self, tf):
        image = np.full((20, 40, 3), 200, "uint8")
        resized = resize.resize_images(tf.constant(image), (32, 32)).numpy()
        assert resized.dtype == np.uint8
        np.testing.assert_array_equal(resized[:16], 200)
        np.testing.assert_array_equal(
            resized[16:], np.broadcast_to(resize.PADDING_COLOR, (16, 32, 3))
        )

    def test_a_marked_rectangle_moves_with_its_box(self, tf):
        image = np.zeros((60, 90, 3), "uint8")
        image[12:33, 15:75] = 255
        box = np.array([[15, 12, 75, 33]], "float32")
        for policy in resize.RESIZE_POLICIES:
            resized = resize.resize_images(tf.constant(image), (120, 120), policy).numpy()[..., 0]
            height, width = resize.resized_size((60, 90), (120, 120), policy)
            rows, columns = np.nonzero(resized[:height, :width] > 127)
            found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(
                found, resize.resize_boxes(box, (60, 90), (120, 120), policy)[0], atol=0.5
            )

    def test_labels_are_resized_by_nearest_and_padded_with_zero(self, tf):
        labels = np.array([[3, 9], [9, 3]], "int32")[None, ..., None]
        resized = resize.resize_images(tf.constant(labels), (4, 8), interpolation="nearest").numpy()
        assert resized.dtype == np.int32
        np.testing.assert_array_equal(
            resized[0, ..., 0],
            np.pad(np.kron(labels[0, ..., 0], np.ones((2, 2), int)), ((0, 0), (0, 4))),
        )

    def test_an_image_of_the_target_size_is_unchanged(self, tf):
        image = np.random.default_rng(6).integers(0, 256, (24, 32, 3)).astype("uint8")
        unknown = tf.function(
            lambda x: resize.resize_images(x, (24, 32)),
            input_signature=[tf.TensorSpec((None, None, 3), tf.uint8)],
        )
        np.testing.assert_array_equal(unknown(image), image)

    def test_an_unknown_interpolation_is_refused(self, tf):
        with pytest.raises(ValueError, match="'cubic'"):
            resize.resize_images(tf.zeros((2, 2, 3)), (4, 4), interpolation="cubic")
