import json

import numpy as np
import pytest

from kvision.data import read_coco
from tests.data.conftest import write_image

pytest.importorskip("PIL")


class COCOFile:
    """A small data set whose JSON a test may damage before it is read."""

    def __init__(self, root):
        self.root = root
        for image_id in (7, 5):
            write_image(root / f"{image_id}.jpg")
        self.content = {
            "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "car"}],
            "images": [
                {"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 80} for i in (7, 5)
            ],
            "annotations": [
                self.box(1, 7, 90, [10, 20, 40, 40], area=900.5),
                self.box(2, 7, 3, [0, 0, 80, 100], iscrowd=1),
            ],
        }

    @staticmethod
    def box(identity, image_id, category_id, bbox, **more):
        return {
            "id": identity,
            "image_id": image_id,
            "category_id": category_id,
            "bbox": bbox,
        } | more

    def read(self, **arguments):
        path = self.root / "instances.json"
        path.write_text(json.dumps(self.content))
        return read_coco(path, self.root, **arguments)


@pytest.fixture
def coco(tmp_path):
    return COCOFile(tmp_path)


def test_categories_become_labels_in_the_order_of_their_ids(coco):
    dataset = coco.read()
    assert dataset.class_names == ("car", "zebra")
    assert dataset.category_ids == (3, 90)
    first, second = dataset
    assert (first.image_id, second.image_id) == (7, 5)
    parts = first.bounding_boxes
    np.testing.assert_array_equal(parts["boxes"], [[10, 20, 50, 60], [0, 0, 80, 100]])
    assert parts["labels"].tolist() == [1, 0]
    assert parts["is_crowd"].tolist() == [False, True]
    assert parts["area"].tolist() == [900.5, 8000]
    assert second.bounding_boxes["labels"].shape == (0,)


BAD_BOXES = {
    "unknown category": (dict(category_id=4), "annotation 9: the category 4 is unknown"),
    "unknown image": (dict(image_id=8), "annotation 9: its image 8 is unknown"),
    "no area": (dict(bbox=[10, 10, 0, 20]), "annotation 9: the box .* has no area"),
    "outside": (dict(bbox=[70, 10, 20, 20]), "annotation 9: the box .* reaches outside"),
    "not numbers": (dict(bbox=[70, 10, 20]), "annotation 9: the box .* is not four numbers"),
    "null": (dict(bbox=None), "annotation 9: the box None is not four numbers"),
}


@pytest.mark.parametrize("kind", BAD_BOXES)
def test_a_bad_box_is_refused_or_left_out_alone(coco, kind):
    change, reason = BAD_BOXES[kind]
    coco.content["annotations"].append(coco.box(9, 7, 3, [1, 1, 9, 9]) | change)
    with pytest.raises(ValueError, match=rf"read_coco: .*instances\.json: {reason}"):
        coco.read()
    with pytest.warns(UserWarning, match=r"skipped 0 image\(s\) and 1 box\(es\)"):
        dataset = coco.read(on_error="skip")
    assert [len(example.bounding_boxes["labels"]) for example in dataset] == [2, 0]


def test_a_missing_image_is_refused_or_left_out(coco):
    (coco.root / "7.jpg").unlink()
    with pytest.raises(ValueError, match=r"7\.jpg: the image file is missing"):
        coco.read()
    with pytest.warns(UserWarning, match=r"skipped 1 image\(s\)"):
        assert [example.image_id for example in coco.read(on_error="skip")] == [5]


def test_an_image_without_its_size_is_refused_or_left_out(coco):
    del coco.content["images"][1]["height"]
    with pytest.raises(ValueError, match="image 5: it lacks its file name, height or width"):
        coco.read()
    with pytest.warns(UserWarning, match=r"skipped 1 image\(s\)"):
        assert len(coco.read(on_error="skip")) == 1


@pytest.mark.parametrize("image_id", ["5", 2**31, None, 7])
def test_an_image_id_that_cannot_be_kept_is_refused_always(coco, image_id):
    coco.content["images"][1]["id"] = image_id
    with pytest.raises(ValueError, match="not an int32|two images have the id 7"):
        coco.read(on_error="skip")


def test_another_file_is_refused(coco):
    del coco.content["categories"]
    with pytest.raises(ValueError, match=r"instances\.json: it has no \['categories'\]"):
        coco.read()
    text = coco.root / "text.json"
    text.write_text("{")
    with pytest.raises(ValueError, match=r"text\.json: it is not JSON"):
        read_coco(text, coco.root)


@pytest.mark.parametrize(
    ("split", "images", "objects", "crowds"),
    [("train", 46, 413, 6), ("val", 12, 63, 0), ("test", 12, 111, 0)],
)
def test_real_photographs(shared_data, split, images, objects, crowds):
    root = shared_data / "coco_tiny"
    dataset = read_coco(root / "annotations" / f"instances_{split}.json", root / "images")
    assert (len(dataset), dataset.num_classes) == (images, 80)
    assert dataset.category_ids[:12] == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13)
    parts = [example.bounding_boxes for example in dataset]
    assert sum(len(part["labels"]) for part in parts) == objects
    assert sum(part["is_crowd"].sum() for part in parts) == crowds
    content = json.loads((root / "annotations" / f"instances_{split}.json").read_text())
    area = {a["id"]: a["area"] for a in content["annotations"]}
    np.testing.assert_allclose(
        sum(part["area"].sum() for part in parts), sum(area.values()), rtol=1e-5
    )
