"""The C program of examples/serve_c, on small models exported both ways."""

import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import kvision
from kvision.export import endpoints, saved_model
from kvision.export.answers import Detections
from kvision.ops import native

FOLDER = Path(__file__).parents[2] / "examples" / "serve_c"
CLASS_NAMES = ["pea", "très chère", "b c"]

pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports on TensorFlow"),
    pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler"),
    pytest.mark.filterwarnings("ignore:kvision. .*slower reference:RuntimeWarning"),
]


@pytest.fixture(scope="module")
def serve(tmp_path_factory):
    """The program, built by the two lines of its header comment."""
    header = (FOLDER / "serve.c").read_text().partition("*/")[0]
    find, build = re.findall(r"^ \*   ((?:TF=|cc ).*)$", header, re.M)
    folder = tmp_path_factory.mktemp("serve")
    shutil.copy(FOLDER / "serve.c", folder)
    find = find.replace("python ", f"{sys.executable} ")
    build = build.replace("cc ", "cc -Wall -Wextra -Werror -pedantic ", 1)
    subprocess.run(["sh", "-ec", f"{find}\n{build}"], cwd=folder, check=True)
    return folder / "serve"


@pytest.fixture(scope="module")
def detector():
    keras.utils.set_random_seed(3)
    model = kvision.models.detection.FasterRCNN(
        kvision.backbones.ResNetTiny(normalization="batch"),
        num_classes=3,
        class_names=CLASS_NAMES,
        image_size=(64, 80),
        fpn_filters=16,
        box_head_units=32,
        rpn_pre_nms_top_n=100,
        rpn_post_nms_top_n=30,
        max_detections=20,
    )
    for layer in model.box_head, model.rpn_head:  # boxes of some size, scores that differ
        for weights in layer.trainable_variables:
            weights.assign(weights * 3.0)
    return model


@pytest.fixture(scope="module")
def segmenter():
    """Of instances; of random weights, the cut of whose energy is at the middle of its levels."""
    keras.utils.set_random_seed(4)
    return kvision.models.instances.DeepWatershed(
        num_classes=1,
        class_names=CLASS_NAMES[1:2],
        image_size=(64, 80),
        level_edges=(0, 1, 2, 3),
        widths=(4, 4, 4, 4, 4),
        strides=(1, 2, 2, 2),
        branch_filters=4,
        fuse_filters=8,
        energy_widths=((4,),),
        energy_strides=(1,),
        energy_filters=4,
        cut=1,
        min_area=1,
    )


@pytest.fixture(scope="module", params=["portable", "native"])
def implementation(request):
    if request.param == "native":
        try:
            native.load_ops()
        except RuntimeError as error:
            if os.environ.get("KVISION_REQUIRE_OPS") == "1":
                raise
            pytest.skip(str(error))
    return request.param


def export(model, implementation, tmp_path_factory):
    """`(SavedModel path, op libraries to load)`."""
    path = tmp_path_factory.mktemp(implementation) / "model"
    report = saved_model(model, path, implementation, verbose=False)
    assert report.compared > 20
    return path, [native.library_path()] if implementation == "native" else []


@pytest.fixture(scope="module")
def served(detector, implementation, tmp_path_factory):
    return export(detector, implementation, tmp_path_factory)


@pytest.fixture(scope="module")
def served_segmenter(segmenter, implementation, tmp_path_factory):
    return export(segmenter, implementation, tmp_path_factory)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    import tensorflow as tf

    pixels = np.random.default_rng(1).integers(0, 256, (10, 14, 3), "uint8")
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    path.write_bytes(tf.io.encode_png(pixels.repeat(8, axis=0).repeat(8, axis=1)).numpy())
    return path


def run(serve, *arguments, text=True):
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(
        [serve, *arguments], capture_output=True, text=text, check=False, env=environment
    )


def read_lines(output):
    """The printed lines as a detections dictionary, and the class names."""
    lines = [line.split("\t") for line in output.splitlines()]
    detections = {
        "labels": np.array([[int(line[0]) for line in lines]]),
        "scores": np.array([[float(line[2]) for line in lines]], "float32"),
        "boxes": np.array([[line[3:] for line in lines]], "float32").reshape(1, -1, 4),
        "num_detections": np.array([len(lines)]),
    }
    return detections, [line[1] for line in lines]


def test_it_prints_the_live_models_detections(serve, detector, served, picture):
    import tensorflow as tf

    path, libraries = served
    process = run(serve, path, picture, *libraries)
    assert process.returncode == 0, process.stderr
    detections, names = read_lines(process.stdout)
    live = endpoints.Endpoints(detector).predict_encoded(tf.constant([picture.read_bytes()]))
    live = {name: value.numpy() for name, value in live.items()}
    count, _ = Detections.compare(live, detections)
    assert count > 5
    assert names == [CLASS_NAMES[label] for label in detections["labels"][0]]


def test_it_prints_the_live_models_instances(serve, segmenter, served_segmenter, picture, tmp_path):
    import tensorflow as tf

    path, libraries = served_segmenter
    process = run(serve, path, picture, *libraries, text=False)
    assert process.returncode == 0, process.stderr
    live = endpoints.Endpoints(segmenter).predict_encoded(tf.constant([picture.read_bytes()]))
    expected = live["instance_ids"].numpy()
    assert expected.max() > 2
    ids = np.asarray(Image.open(io.BytesIO(process.stdout)))
    np.testing.assert_array_equal(ids[None], expected)
    head = process.stdout.partition(b"\n112 80\n65535\n")[0].decode().splitlines()[1:]
    told = [line.removeprefix("# ").split("\t") for line in head]
    rows = np.flatnonzero(live["labels"].numpy()[0] >= 0)
    assert [int(line[0]) for line in told] == (rows + 1).tolist()
    assert [int(line[1]) for line in told] == live["labels"].numpy()[0, rows].tolist()
    assert [line[2] for line in told] == ["très chère"] * len(told)
    scores = [float(line[3]) for line in told]
    np.testing.assert_allclose(scores, live["scores"].numpy()[0, rows], rtol=1e-6, atol=1e-5)

    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.read_bytes()[:-20])
    process = run(serve, path, damaged, *libraries)
    assert (process.returncode, process.stdout) == (3, "")
    assert f"{damaged}: not a whole JPEG or PNG image" in process.stderr


def test_a_damaged_image_is_told(serve, served, picture, tmp_path):
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(picture.read_bytes()[:-20])
    path, libraries = served
    process = run(serve, path, damaged, *libraries)
    assert process.returncode == 3
    assert f"{damaged}: not a whole JPEG or PNG image" in process.stderr
    assert process.stdout == ""


def test_damaged_strings_leave_the_good_ones_their_answers(served, picture):
    import tensorflow as tf

    encoded = tf.saved_model.load(str(served[0])).signatures["encoded"]
    good = picture.read_bytes()
    jpeg = tf.io.encode_jpeg(tf.io.decode_png(good)[:50, 20:]).numpy()
    strings = [b"", good, b"some text", jpeg[:-100], jpeg, good[:-20]]
    alone = encoded(encoded_images=tf.constant([good, jpeg]))
    among = encoded(encoded_images=tf.constant(strings))
    assert among["num_detections"].numpy()[[0, 2, 3, 5]].tolist() == [-1] * 4
    count, _ = Detections.compare(
        {name: value.numpy() for name, value in alone.items()},
        {name: value.numpy()[[1, 4]] for name, value in among.items()},
    )
    assert count > 10


class TestErrors:
    def test_wrong_usage(self, serve):
        process = run(serve)
        assert process.returncode == 2
        assert "usage: serve MODEL IMAGE [OP_LIBRARY]" in process.stderr

    def test_no_image(self, serve, tmp_path):
        process = run(serve, tmp_path, tmp_path / "none.png")
        assert process.returncode == 3
        assert "none.png: No such file" in process.stderr

    def test_no_model(self, serve, picture, tmp_path):
        process = run(serve, tmp_path / "none", picture)
        assert process.returncode == 1
        assert "serve: loading the SavedModel: Could not find" in process.stderr

    def test_no_op_library(self, serve, picture, tmp_path):
        process = run(serve, tmp_path, picture, tmp_path / "none.so")
        assert process.returncode == 1
        assert "serve: loading the op library:" in process.stderr

    def test_a_model_without_the_signature(self, serve, picture, tmp_path):
        import tensorflow as tf

        double = tf.function(lambda x: x * 2, input_signature=[tf.TensorSpec((), "float32")])
        tf.saved_model.save(tf.Module(), str(tmp_path / "other"), {"double": double})
        process = run(serve, tmp_path / "other", picture)
        assert process.returncode == 1
        assert "serve: the SavedModel has no signature `encoded`" in process.stderr


def test_the_makefile_builds_it(tmp_path):
    program = tmp_path / "serve"
    command = ["make", "-C", FOLDER, f"PYTHON={sys.executable}", f"OUT={program}"]
    subprocess.run(command, check=True, capture_output=True)
    assert run(program).returncode == 2
