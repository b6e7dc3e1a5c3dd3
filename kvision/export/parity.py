"""Does a written SavedModel give the live model's detections? Asked in a fresh process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

BOX_TOLERANCE = 1e-3
"""How far a box side may move, in pixels."""

SCORE_TOLERANCE = 1e-5
"""How far a score may move."""

RELOAD = Path(__file__).with_name("reload.py")
"""The program of the fresh process; run by its path, since importing it would import kvision."""

OUTPUTS = ("boxes", "scores", "labels", "num_detections")


def make_requests(images):
    """Requests that show every way into the model, and one damaged image among good ones.

    Args:
        images: list of uint8 arrays ``(h, w, 3)``.

    Returns:
        list of ``(signature name, input array)``.
    """
    import tensorflow as tf

    encoded = [tf.io.encode_png(image).numpy() for image in images]
    return [
        ("serving_default", images[0][None]),
        ("float", images[-1][None].astype("float32")),
        ("encoded", np.array([encoded[0], encoded[0][:-12], *encoded[1:]])),
    ]


def sample_images(image_size):
    """Two pictures of coloured patches, the same ones every time.

    Args:
        image_size: the model's ``(H, W)``.

    Returns:
        list of two uint8 arrays of different sizes.
    """
    height, width = image_size
    generator = np.random.default_rng(0)
    images = []
    for size in ((height, width), (height * 3 // 4, width * 5 // 4)):
        patches = generator.integers(0, 256, (-(-size[0] // 16), -(-size[1] // 16), 3), "uint8")
        images.append(patches.repeat(16, axis=0).repeat(16, axis=1)[: size[0], : size[1]])
    return images


def run_in_fresh_process(path, requests, op_library=None):
    """Load a SavedModel in a Python process without kvision and answer the requests there.

    It runs on the CPU, whatever holds the accelerator here.

    Args:
        path: the SavedModel's directory.
        requests: list of ``(signature name, input array)``.
        op_library: path of an op library that the model needs, or None.

    Returns:
        list of dictionaries of NumPy arrays, one a request.

    Raises:
        RuntimeError: the process failed; the message ends with what it said last.
    """
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder, "requests.npz"), Path(folder, "replies.npz")
        np.savez(questions, **{f"{i} {name}": value for i, (name, value) in enumerate(requests)})
        command = [sys.executable, "-P", RELOAD, path, questions, answers]
        process = subprocess.run(
            [*map(str, command), *([str(op_library)] if op_library else [])],
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            raise RuntimeError(
                "saved_model: the exported model did not load and run in a fresh process "
                f"(exit code {process.returncode}):\n{process.stderr[-2000:].strip()}"
            )
        with np.load(answers) as replies:
            return [{o: replies[f"{i} {o}"] for o in OUTPUTS} for i in range(len(requests))]


def largest_difference(expected, received):
    """Compare two batches of detections image by image.

    Each detection is paired with one of the same label whose box and score lie within the
    tolerances: two detections of almost equal score may stand in either order.

    Args:
        expected: detections dictionary of NumPy arrays.
        received: the same from elsewhere.

    Returns:
        ``(number of detections, largest difference of a box side, of a score)``.

    Raises:
        ValueError: a number of detections differs, or a detection has no partner.
    """
    count, box_difference, score_difference = 0, 0.0, 0.0
    numbers = [np.asarray(batch["num_detections"]).tolist() for batch in (expected, received)]
    if numbers[0] != numbers[1]:
        raise ValueError(f"num_detections are {numbers[1]} where {numbers[0]} were expected")
    for item, number in enumerate(numbers[0]):
        (boxes, scores, labels), (other_boxes, other_scores, other_labels) = (
            [np.asarray(batch[name])[item, : max(number, 0)] for name in OUTPUTS[:3]]
            for batch in (expected, received)
        )
        box_gaps = np.abs(boxes[:, None] - other_boxes[None]).max(axis=-1, initial=0)
        score_gaps = np.abs(scores[:, None] - other_scores[None])
        partners = (
            (labels[:, None] == other_labels[None])
            & (box_gaps <= BOX_TOLERANCE)
            & (score_gaps <= SCORE_TOLERANCE)
        )
        for index in range(number):
            candidates = np.flatnonzero(partners[index])
            if not candidates.size:
                raise ValueError(
                    f"image {item}: no partner within {BOX_TOLERANCE:g} px and "
                    f"{SCORE_TOLERANCE:g} for detection {index} (label {labels[index]}, "
                    f"score {scores[index]:.9g}, box {boxes[index].tolist()}); "
                    f"in its place stands label {other_labels[index]}, "
                    f"score {other_scores[index]:.9g}, box {other_boxes[index].tolist()}"
                )
            partner = candidates[np.argmin(box_gaps[index, candidates])]
            partners[:, partner] = False
            box_difference = max(box_difference, float(box_gaps[index, partner]))
            score_difference = max(score_difference, float(score_gaps[index, partner]))
        count += max(number, 0)
    return count, box_difference, score_difference
