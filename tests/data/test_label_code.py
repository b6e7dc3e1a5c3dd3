"""What the pixels of label files become, and which are refused."""

import struct
import zlib

import numpy as np
import pytest

from kvision.data import LabelCode
from kvision.data.images import read_label_pixels

Image = pytest.importorskip("PIL.Image")

INDICES = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 1, 255, 0]], "uint8")
ABC = ("a", "b", "c", "d")


def save(pixels, path, mode=None):
    image = Image.fromarray(pixels)
    if mode == "P":
        image = image.convert("L")
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
        assert image.mode == "P"
    image.save(path)
    return path


def write_packed_png(path, indices, bits, colour_type):
    """A PNG with pixels of fewer than eight bits, by PNG's specification, without Pillow."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    height, width = indices.shape
    rows = b""
    for row in indices:
        text = "".join(f"{value:0{bits}b}" for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[i : i + 8], 2) for i in range(0, len(text), 8))
    header = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    palette = chunk(b"PLTE", bytes(range(3 * 2**bits))) if colour_type == 3 else b""
    data = chunk(b"IHDR", header) + palette + chunk(b"IDAT", zlib.compress(rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b""))


@pytest.mark.parametrize("mode", [None, "P"])
def test_grey_and_palette_files_hold_indices(tmp_path, mode):
    path = save(INDICES, tmp_path / "a.png", mode)
    pixels = read_label_pixels(path)
    np.testing.assert_array_equal(pixels, INDICES)
    assert pixels.dtype == np.int32


def test_sixteen_bits_are_read_whole(tmp_path):
    wide = INDICES.astype("uint16") * 257
    np.testing.assert_array_equal(read_label_pixels(save(wide, tmp_path / "a.png")), wide)


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("colour_type", [0, 3], ids=["grey", "palette"])
def test_packed_pixels_are_the_numbers_that_are_written(tmp_path, bits, colour_type):
    """Pillow spreads grey pixels of few bits over 0..255."""
    indices = np.arange(15).reshape(3, 5) % 2**bits
    write_packed_png(tmp_path / "a.png", indices, bits, colour_type)
    np.testing.assert_array_equal(read_label_pixels(tmp_path / "a.png"), indices)


def test_colour_and_lossy_files_are_no_indices(tmp_path):
    colours = save(np.zeros((4, 4, 3), "uint8"), tmp_path / "a.png")
    with pytest.raises(ValueError, match="mode 'RGB', not grey or palette.*`colors` says"):
        read_label_pixels(colours)
    with pytest.raises(ValueError, match="do not survive JPEG"):
        read_label_pixels(save(INDICES, tmp_path / "a.jpg"))
    with pytest.raises(ValueError, match="the image file is missing"):
        read_label_pixels(tmp_path / "b.png")


def test_index_k_is_class_k_and_255_is_ignored(tmp_path):
    labels = LabelCode(ABC).read(save(INDICES, tmp_path / "a.png"))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, INDICES[..., None])


def test_a_table_of_values_gathers_indices(tmp_path):
    path = save(INDICES.astype("uint16") * 200, tmp_path / "a.png")
    code = LabelCode(("even", "odd"), values={"odd": [200, 600], "even": 0}, ignore=[51000, 400])
    expected = np.array([[0, 1, 255, 1], [1, 255, 1, 0], [1, 1, 255, 0]])
    np.testing.assert_array_equal(code.read(path)[..., 0], expected)
    others = LabelCode(("even", "odd"), values={"odd": [200, 600], "even": [0]}, ignore="others")
    np.testing.assert_array_equal(others.read(path)[..., 0], expected)


def test_a_class_may_be_255(tmp_path):
    path = save(np.array([[0, 255]], "uint8"), tmp_path / "a.png")
    code = LabelCode(("background", "cell"), values={"background": 0, "cell": 255})
    assert code.read(path).ravel().tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_table_of_colours(tmp_path, mode):
    red, blue, dark = (200, 10, 10), (10, 10, 200), (10, 10, 199)
    pixels = np.array([[red, blue], [dark, (0, 0, 0)]], "uint8")
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
    code = LabelCode(("red", "blue"), colors={"red": red, "blue": [blue, dark]}, ignore=[(0, 0, 0)])
    if mode == "P":  # Pillow's palette is not exact
        pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).tolist()
        red, blue, dark, black = (tuple(c) for row in pixels for c in row)
        colors = {"red": red, "blue": {blue, dark} - {red}}
        colors["blue"] = sorted(colors["blue"])
        code = LabelCode(("red", "blue"), colors=colors, ignore=[black])
    assert code.read(tmp_path / "a.png").ravel().tolist() == [0, 1, 1, 255]


def test_unknown_pixels_are_told_with_value_number_and_place(tmp_path):
    path = save(INDICES, tmp_path / "a.png")
    with pytest.raises(
        ValueError,
        match=r"no class: the index 2 \(2 pixel\(s\), the first in row 0, column 2\), the index 3",
    ):
        LabelCode(("a", "b")).read(path)
    many = save(np.arange(20, dtype="uint8").reshape(4, 5), tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"the index 8 \(1 .*column 3\) and 11 more$"):
        LabelCode(ABC).read(many)
    colours = save(np.full((2, 2, 3), (1, 2, 3), "uint8"), tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"the colour \(1, 2, 3\) \(4 pixel"):
        LabelCode(("a",), colors={"a": (1, 2, 4)}).read(colours)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": ("a", "a")}, "1 to 255 different names. Received: 2 names, 1 of them"),
        ({"class_names": [str(k) for k in range(256)]}, "Received: 256 names"),
        ({"values": {"a": 1}, "colors": {"a": (1, 1, 1)}}, "`values` or `colors`, not both"),
        ({"values": {"b": 1}}, r"Classes without: \['a'\]; no classes: \['b'\]"),
        ({"values": {"a": 1}, "ignore": [1]}, "the index 1 cannot be both 'a' and ignored"),
        ({"values": {"a": 70000}}, r"indices in 0..65535. Received: 70000"),
        ({"values": {"a": (1.5,)}}, "indices in"),
        ({"colors": {"a": (1, 2)}}, r"colours \(r, g, b\) of 0..255. Received: \(1, 2\)"),
        ({"colors": {"a": (1, 2, 256)}}, "0..255"),
        (
            {"class_names": "ab", "colors": {"a": (1, 2, 3), "b": [(0, 0, 0), (1, 2, 3)]}},
            r"the colour \(1, 2, 3\) cannot be both 'a' and 'b'",
        ),
    ],
)
def test_bad_tables_are_refused(arguments, message):
    with pytest.raises(ValueError, match=f"LabelCode: .*{message}"):
        LabelCode(**{"class_names": ("a",)} | arguments)
