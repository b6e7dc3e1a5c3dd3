"""CamVid in its two layouts."""

import numpy as np
import pytest

from kvision.data import (
    CAMVID_CLASS_NAMES,
    CAMVID_COLOR_GROUPS,
    CAMVID_COLORS,
    read_camvid,
    to_fit,
)

Image = pytest.importorskip("PIL.Image")

# The authors' list of colours, "label_colors.txt".
THIRTY_TWO = """
64 128 64 Animal; 192 0 128 Archway; 0 128 192 Bicyclist; 0 128 64 Bridge; 128 0 0 Building; 64 0
128 Car; 64 0 192 CartLuggagePram; 192 128 64 Child; 192 192 128 Column_Pole; 64 64 128 Fence; 128
0 192 LaneMkgsDriv; 192 0 64 LaneMkgsNonDriv; 128 128 64 Misc_Text; 192 0 192 MotorcycleScooter;
128 64 64 OtherMoving; 64 192 128 ParkingBlock; 64 64 0 Pedestrian; 128 64 128 Road; 128 128 192
RoadShoulder; 0 0 192 Sidewalk; 192 128 128 SignSymbol; 128 128 128 Sky; 64 128 192 SUVPickupTruck;
0 0 64 TrafficCone; 0 64 64 TrafficLight; 192 64 128 Train; 128 128 0 Tree; 192 128 192 Truck_Bus;
64 0 64 Tunnel; 192 192 0 VegetationMisc; 0 0 0 Void; 64 192 0 Wall
"""
VOID = {"Animal", "Archway", "Misc_Text", "Train", "Tunnel", "Void"}


def thirty_two():
    for entry in THIRTY_TWO.replace("\n", " ").split(";"):
        red, green, blue, name = entry.split()
        yield name, (int(red), int(green), int(blue))


def test_every_official_colour_has_one_meaning():
    colors = dict(thirty_two())
    assert len(colors) == 32
    grouped = [color for group in CAMVID_COLOR_GROUPS.values() for color in group]
    assert sorted(grouped) == sorted(color for name, color in colors.items() if name not in VOID)
    same = {"Pole": "Column_Pole", "Pavement": "Sidewalk"}
    for name, color in zip(CAMVID_CLASS_NAMES, CAMVID_COLORS, strict=True):
        assert colors[same.get(name, name)] == color


def write_frame(root, name, labels):
    images, annotations = root / "701_StillsRaw_full", root / "LabeledApproved_full"
    images.mkdir(exist_ok=True)
    annotations.mkdir(exist_ok=True)
    Image.fromarray(np.zeros_like(labels)).save(images / f"{name}.png")
    Image.fromarray(labels).save(annotations / f"{name}_L.png")


def test_the_original_colours_become_eleven_classes(tmp_path):
    names, colors = zip(*thirty_two(), strict=True)
    write_frame(tmp_path, "0006R0_f00930", np.array(colors, "uint8").reshape(4, 8, 3))
    (batch,) = read_camvid(tmp_path, "train").batches(1, None)
    labels = dict(zip(names, batch["segmentation_masks"].ravel().tolist(), strict=True))
    assert {name for name, label in labels.items() if label == 255} == VOID
    assert labels["Wall"] == labels["Building"] == 1
    assert labels["SUVPickupTruck"] == labels["Car"] == 8
    assert labels["MotorcycleScooter"] == labels["Bicyclist"] == 10
    assert set(labels.values()) == {*range(11), 255}


def test_an_unknown_colour_is_told_with_its_file(tmp_path):
    write_frame(tmp_path, "0006R0_f00930", np.full((2, 2, 3), 5, "uint8"))
    message = r"read_camvid: .*0006R0_f00930_L\.png: .*the colour \(5, 5, 5\) \(4 pixel"
    with pytest.raises(ValueError, match=message):
        list(read_camvid(tmp_path, "train").batches(1, None))


def test_splits_of_the_original_follow_the_drives(tmp_path, shared_data):
    """Against SegNet's lists, which are whole for two splits and a part of the third."""
    pixels, expected = np.zeros((1, 1, 3), "uint8"), {}
    for split in ("train", "val", "test"):
        lines = (shared_data / "camvid" / f"{split}.txt").read_text().split()[::2]
        expected[split] = {line.split("/")[1].removesuffix(".jpg") for line in lines}
        for name in expected[split]:
            write_frame(tmp_path, name, pixels)
    for split, names in expected.items():
        found = [
            example.path.split("/")[-1].removesuffix(".png")
            for example in read_camvid(tmp_path, split)
        ]
        assert found == sorted(names)


def test_a_list_chooses_frames_of_the_original(tmp_path):
    for name in ("a_1", "b_2", "c_3"):
        write_frame(tmp_path, name, np.zeros((1, 1, 3), "uint8"))
    (tmp_path / "mine.txt").write_text("701_StillsRaw_full/c_3.png\na_1_L.png\n")
    found = [example.path[-7:] for example in read_camvid(tmp_path, "mine")]
    assert found == ["c_3.png", "a_1.png"]
    with pytest.raises(ValueError, match="`split` must be one of .*Received: 'other'"):
        read_camvid(tmp_path, "other")


def test_segnets_lists_may_hold_its_authors_paths(tmp_path):
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full((2, 3), 11, "uint8")).save(tmp_path / folder / "a.png")
    (tmp_path / "train.txt").write_text(
        "/SegNet/CamVid/train/a.jpg /SegNet/CamVid/trainannot/a.png\n"
    )
    (batch,) = read_camvid(tmp_path, "train").batches(1, None)
    np.testing.assert_array_equal(batch["segmentation_masks"], np.full((1, 2, 3, 1), 255))
    (tmp_path / "train.txt").write_text("train/a.png\n")
    with pytest.raises(ValueError, match=r"train\.txt: line 1 is not an image and a label map"):
        read_camvid(tmp_path, "train")
    with pytest.raises(ValueError, match=r"has neither val\.txt.* nor the folder 701_Stills"):
        read_camvid(tmp_path, "val")


def test_the_real_frames_have_the_published_frequencies(shared_data):
    """Per cent of the labelled pixels of the training split, as the folder's README rounds them."""
    dataset = read_camvid(shared_data / "camvid", "train")
    assert len(dataset) == 367
    counts = np.zeros(256)
    for example in dataset:
        labels = dataset.label_code.read(example.label_path)
        counts += np.bincount(labels.ravel(), minlength=256)
    percent = counts[[*range(11), 255]] / counts.sum() * 100
    published = [16.9, 23.3, 1.0, 31.7, 4.5, 9.7, 1.2, 1.1, 5.9, 0.6, 0.3, 4.0]
    np.testing.assert_allclose(percent, published, atol=0.06)
    images, masks = to_fit(dataset.batches(2, (180, 240))[0])
    assert (images.shape, masks.shape) == ((2, 180, 240, 3), (2, 180, 240, 1))
