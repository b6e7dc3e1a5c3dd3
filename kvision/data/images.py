"""Image files are found and become arrays, or there is a reason why not."""

import contextlib
import os
import pathlib

import numpy as np

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")
"""How the names of image files may end."""

_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}
_INDEX_MODES = {"1", "L", "P", "I", "I;16", "I;16B", "I;16L"}
# Pillow spreads grey values of 2 and 4 bits over 0..255.
_GREY_STEPS = {"L;2": 85, "L;4": 17}
_LOSSY_FORMATS = {"JPEG", "JPEG2000", "MPO"}
_ORIENTATION = 0x0112


def read_image(path, *, apply_exif=True):
    """Read an image file as RGB.

    Grey, palette and CMYK images become RGB; transparency is dropped.

    Args:
        path: str or path of a file in any format that Pillow reads (JPEG, PNG, ...).
        apply_exif: bool, whether an orientation in the file's EXIF data turns the pixels, as
            viewers and annotation tools do.

    Returns:
        uint8 array ``(h, w, 3)``.

    Raises:
        ValueError: the file is missing, damaged, or has more than 8 bits a channel; the message
            is the reason without the file's name.
    """
    return _rgb(_decode(path, apply_exif))


def read_label_pixels(path, *, colors=False, apply_exif=True):
    """Read the pixels of a label map as they are written.

    Args:
        path: str or path of a file in a lossless format that Pillow reads, such as PNG.
        colors: bool. ``False`` reads indices: those of a palette image, whose colours are for
            viewers alone, or the values of a grey one of 1 to 16 bits. ``True`` reads colours.
        apply_exif: bool, whether an orientation in the file's EXIF data turns the pixels.

    Returns:
        int32 array ``(h, w)`` of indices, or uint8 ``(h, w, 3)`` of colours.

    Raises:
        ValueError: the file is missing, damaged, lossy, or holds no indices; the message is the
            reason without the file's name.
    """
    image = _decode(path, apply_exif)
    if image.format in _LOSSY_FORMATS:
        raise ValueError(f"labels do not survive {image.format}, which is lossy; use PNG")
    if colors:
        return _rgb(image)
    if image.mode not in _INDEX_MODES:
        raise ValueError(
            f"its pixels are of mode {image.mode!r}, not grey or palette ones that hold indices; "
            "`colors` says what colours mean"
        )
    return np.asarray(image).astype("int32") // image.info["grey step"]


def read_size(path, *, apply_exif=True):
    """Read the size of an image file without decoding its pixels.

    Args:
        path: str or path.
        apply_exif: bool, whether an orientation in the file's EXIF data counts.

    Returns:
        ``(height, width)``.

    Raises:
        ValueError: the file is missing or no image; the message is the reason without its name.
    """
    from PIL import Image

    with _reasons(path), Image.open(path) as image:
        width, height = image.size
        # The method of PNG images decodes them first, in case that EXIF data come after the pixels.
        turned = apply_exif and Image.Image.getexif(image).get(_ORIENTATION, 1) >= 5
        return (width, height) if turned else (height, width)


def read_names(path, reader, argument):
    """Read the first words of the lines of a text file.

    Args:
        path: str or path.
        reader: str, who speaks in the error.
        argument: str, what named the file.

    Returns:
        List of str.

    Raises:
        ValueError: there is no such file.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{reader}: {argument} has no list of images: {path}.")
    return [line.split()[0] for line in path.read_text().splitlines() if line.strip()]


def pair_files(images_dir, maps_dir, names, map_suffix, reader):
    """Pair the images of a folder with the maps of another.

    Args:
        images_dir: str or path.
        maps_dir: str or path.
        names: str or path of a text file whose lines start with names, or a sequence of names, with
            or without their suffix; None takes all images in the order of their names.
        map_suffix: str between the name of an image and ``.png``.
        reader: str, who speaks in errors.

    Returns:
        List of (path of the image, path of its map), whether there are such files or not.

    Raises:
        ValueError: a folder, or the list of names, is missing.
    """
    images_dir, maps_dir = pathlib.Path(images_dir), pathlib.Path(maps_dir)
    for folder in (images_dir, maps_dir):
        if not folder.is_dir():
            raise ValueError(f"{reader}: the folder {folder} is missing.")
    if names is None:
        names = sorted(path.name for path in images_dir.iterdir() if path.suffix in IMAGE_SUFFIXES)
    elif isinstance(names, str | os.PathLike):
        names = read_names(names, reader, f"`names`={os.fspath(names)!r}")
    return [
        (find_image(images_dir, stem), maps_dir / f"{stem}{map_suffix}.png")
        for stem in map(_without_suffix, names)
    ]


def find_image(folder, name):
    """Find the image of a name, with the first suffix that there is a file of.

    Args:
        folder: path.
        name: str, without suffix.

    Returns:
        Path; of a file that is missing, where no suffix has one.
    """
    candidates = [folder / (name + suffix) for suffix in IMAGE_SUFFIXES]
    return next((path for path in candidates if path.is_file()), candidates[0])


def _without_suffix(name):
    stem, suffix = os.path.splitext(name)
    return stem if suffix in IMAGE_SUFFIXES else name


def _decode(path, apply_exif):
    """Pillow's image, its pixels in memory."""
    from PIL import Image, ImageOps

    with _reasons(path), Image.open(path) as image:
        # A PNG's tile says how its pixels are packed, until they are loaded.
        packing = image.tile[0][3] if image.format == "PNG" else None
        image.load()
        upright = ImageOps.exif_transpose(image) if apply_exif else image
        upright.format = image.format
        upright.info["grey step"] = _GREY_STEPS.get(packing, 1)
        return upright


def _rgb(image):
    if image.mode not in _EIGHT_BIT_MODES:
        raise ValueError(f"its pixels are of mode {image.mode!r}, not 8 bits a channel")
    return np.asarray(image.convert("RGB"))


@contextlib.contextmanager
def _reasons(path):
    """Whatever goes wrong with a file becomes a ValueError that does not name it."""
    try:
        yield
    except FileNotFoundError:
        raise ValueError("the image file is missing") from None
    except Exception as error:  # decoders meet damage with errors of any kind
        reason = str(error).replace(str(path), "it").replace(repr(str(path)), "it")
        raise ValueError(f"the image cannot be decoded ({reason})") from None
