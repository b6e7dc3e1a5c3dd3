"""What a written SavedModel answers, asked in a fresh process."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

RELOAD = Path(__file__).with_name("reload.py")
"""The program of the fresh process; run by its path, since importing it would import kvision."""


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
            answers = [{} for _ in requests]
            for key, value in replies.items():
                number, output = key.split()
                answers[int(number)][output] = value
            return answers
