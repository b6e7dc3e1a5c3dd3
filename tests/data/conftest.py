"""Small data sets on disk, whole and damaged."""

import numpy as np
import pytest

BOX = (11, 21, 50, 60)


def write_image(path, width=80, height=100, mark=BOX, **options):
    from PIL import Image

    pixels = np.full((height, width, 3), 40, "uint8")
    x1, y1, x2, y2 = mark
    pixels[y1 - 1 : y2, x1 - 1 : x2] = 220
    Image.fromarray(pixels).save(path, **options)


def voc_object(name="cat", box=BOX, difficult=0):
    corners = "".join(
        f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return (
        f"<object><name>{name}</name><difficult>{difficult}</difficult>"
        f"<bndbox>{corners}</bndbox></object>"
    )


class VOCFolder:
    """Writes a VOC data set image by image."""

    def __init__(self, root):
        self.root = root
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
            (root / folder).mkdir(parents=True)
        self.names = []

    def add(self, name, *objects, size=(80, 100), suffix=".jpg"):
        self.names.append(name)
        write_image(self.root / "JPEGImages" / (name + suffix))
        stated = size and f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
        self.annotation(name).write_text(
            f"<annotation>{stated or ''}{''.join(objects)}</annotation>"
        )
        (self.root / "ImageSets" / "Main" / "train.txt").write_text("\n".join(self.names) + "\n")

    def annotation(self, name):
        return self.root / "Annotations" / f"{name}.xml"

    def image(self, name):
        return self.root / "JPEGImages" / f"{name}.jpg"


@pytest.fixture
def voc(tmp_path):
    return VOCFolder(tmp_path)


@pytest.fixture
def truncate():
    """Cut a file to half its length."""

    def cut(path):
        data = path.read_bytes()
        path.write_bytes(data[: len(data) // 2])

    return cut
