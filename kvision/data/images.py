"""Image files become RGB arrays, or a reason why not."""

import numpy as np

_EIGHT_BIT_MODES = {"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"}


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
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.load()
            if image.mode not in _EIGHT_BIT_MODES:
                raise ValueError(f"its pixels are of mode {image.mode!r}, not 8 bits a channel")
            if apply_exif:
                image = ImageOps.exif_transpose(image)
            return np.asarray(image.convert("RGB"))
    except FileNotFoundError:
        raise ValueError("the image file is missing") from None
    except Exception as error:  # decoders meet damage with errors of any kind
        reason = str(error).replace(str(path), "it").replace(repr(str(path)), "it")
        raise ValueError(f"the image cannot be decoded ({reason})") from None
