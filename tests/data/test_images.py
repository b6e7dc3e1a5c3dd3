import numpy as np
import pytest

from kvision.data.images import read_image

Image = pytest.importorskip("PIL.Image")

RED = np.full((6, 8, 3), (200, 30, 30), "uint8")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_lossless_files_come_back_exactly(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 3)).astype("uint8")
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(read_image(tmp_path / f"a{suffix}"), pixels)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1"])
def test_png_of_any_eight_bit_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.png"
    image = Image.fromarray(RED).convert(mode)
    image.save(path)
    result = read_image(path)
    assert result.shape == (6, 8, 3)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_of_any_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / "a.jpg"
    Image.fromarray(RED).convert(mode).save(path, quality=95)
    expected = np.asarray(Image.fromarray(RED).convert(mode).convert("RGB")).astype(int)
    assert np.abs(read_image(path) - expected).max() <= 4


def test_exif_orientation_turns_the_pixels(tmp_path):
    path = tmp_path / "a.jpg"
    pixels = np.zeros((16, 32, 3), "uint8")
    pixels[:, :16] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    Image.fromarray(pixels).save(path, exif=exif, quality=95)
    turned = read_image(path)
    assert turned.shape == (32, 16, 3)
    assert turned[:14].min() > 200
    assert turned[18:].max() < 50
    assert read_image(path, apply_exif=False).shape == (16, 32, 3)


def test_truncated_and_foreign_and_missing_files_have_a_reason(tmp_path, truncate):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype("uint8")
    for suffix in (".jpg", ".png"):
        path = tmp_path / f"a{suffix}"
        Image.fromarray(noise).save(path)
        truncate(path)
        with pytest.raises(ValueError, match="cannot be decoded.*truncated"):
            read_image(path)
    (tmp_path / "text.jpg").write_text("not an image")
    with pytest.raises(ValueError, match="cannot be decoded.*cannot identify"):
        read_image(tmp_path / "text.jpg")
    (tmp_path / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_image(tmp_path / "empty.png")
    with pytest.raises(ValueError, match="the image file is missing"):
        read_image(tmp_path / "nothing.png")


def test_more_than_eight_bits_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 1000, "uint16")).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="mode 'I;16', not 8 bits"):
        read_image(tmp_path / "a.png")
