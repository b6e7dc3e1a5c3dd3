import numpy as np
import pytest

from kvision.export import requests


def encode(tf, kind, image):
    return getattr(tf.io, f"encode_{kind}")(image).numpy()


@pytest.fixture(scope="module")
def jpeg(tf, pictures):
    return encode(tf, "jpeg", pictures[0])


@pytest.fixture(scope="module")
def png(tf, pictures):
    return encode(tf, "png", pictures[0])


def looks_whole(tf, *strings):
    return requests.looks_whole(tf.constant(list(strings), "string")).numpy().tolist()


def test_whole_images_pass(tf, jpeg, png):
    tiny = encode(tf, "png", np.zeros((1, 1, 3), "uint8"))
    assert looks_whole(tf, jpeg, png, tiny) == [True, True, True]


def test_padding_after_the_end_marker_passes(tf, jpeg, png):
    assert looks_whole(tf, jpeg + b"\0" * 62, png + b"\r\n") == [True, True]
    assert looks_whole(tf, jpeg + b"\0" * 63, png + b"\0" * 57) == [False, False]


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 7, 8, 100, 0.5, -12, -1])
def test_truncated_images_do_not_pass(tf, jpeg, png, kept):
    def cut(string):
        return string[: int(kept * len(string)) if isinstance(kept, float) else kept]

    assert looks_whole(tf, cut(jpeg), cut(png)) == [False, False]


def test_other_strings_do_not_pass(tf, jpeg, png, pictures):
    strings = [
        b"",
        b"\0",
        "not an image, ünïcode".encode(),
        b"GIF89a" + bytes(100),
        encode(tf, "jpeg", pictures[0])[1:],
        png[:-8] + jpeg[-8:],  # a PNG's beginning with a JPEG's end
        jpeg[:-8] + png[-8:],
    ]
    assert looks_whole(tf, *strings) == [False] * len(strings)


def test_an_empty_batch_is_screened(tf):
    assert requests.looks_whole(tf.zeros((0,), "string")).shape == (0,)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16"])
def test_every_kind_of_png_decodes_to_rgb(tf, pictures, mode, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    picture = pillow.fromarray(pictures[1])
    if mode == "I;16":
        samples = np.asarray(picture.convert("L")).astype("uint16") * 257
        picture = pillow.fromarray(samples)
        expected = np.repeat((samples >> 8)[..., None], 3, axis=-1)
    else:
        picture = picture.convert(mode)
        expected = np.asarray(picture.convert("RGB"))
    picture.save(tmp_path / "picture.png")
    decoded = requests.decode_image(tf.constant((tmp_path / "picture.png").read_bytes()))
    assert decoded.dtype == "uint8"
    np.testing.assert_array_equal(decoded, expected)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_kind_of_jpeg_decodes_to_rgb(tf, pictures, mode, tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    pillow.fromarray(pictures[1]).convert(mode).save(tmp_path / "picture.jpg", quality=95)
    string = (tmp_path / "picture.jpg").read_bytes()
    assert looks_whole(tf, string) == [True]
    decoded = requests.decode_image(tf.constant(string)).numpy().astype(int)
    expected = np.asarray(pillow.open(tmp_path / "picture.jpg").convert("RGB")).astype(int)
    assert decoded.shape == pictures[1].shape
    assert np.abs(decoded - expected).mean() < 3


def test_a_jpeg_decodes_as_by_tensorflows_jpeg_op(tf, jpeg):
    np.testing.assert_array_equal(requests.decode_image(jpeg), tf.io.decode_jpeg(jpeg, channels=3))
