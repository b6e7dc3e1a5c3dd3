"""Asking a peer: its side of the comparison runs in an environment of its own.

Calls go there and answers come back in `.npz` files, which every version of NumPy reads.
"""

import os
import subprocess
import tempfile
from pathlib import Path

import numpy as np

_SCRIPTS = Path(__file__).with_name("peers")
PEERS = {
    "torchvision": "with_torchvision.py",
    "tensorflow": "with_tensorflow.py",
    "addons": "with_addons.py",
    "keras": "with_keras.py",
    "keras_cv": "with_keras_cv.py",
    "imaging": "with_imaging.py",
}


def script(peer):
    """The path of a peer's side."""
    return _SCRIPTS / PEERS[peer]


def ask(peer, python, calls):
    """The versions of a peer's packages, and its answers to `{function: [call, ...]}`."""
    with tempfile.TemporaryDirectory() as folder:
        questions, answers = Path(folder) / "questions.npz", Path(folder) / "answers.npz"
        np.savez(
            questions,
            **{
                f"{function}/{number}/{name}": value
                for function, function_calls in calls.items()
                for number, call in enumerate(function_calls)
                for name, value in call.items()
            },
        )
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "PYTHONWARNINGS": "ignore"}
        command = [python, str(script(peer)), str(questions), str(answers)]
        subprocess.run(command, check=True, env=environment)
        with np.load(answers) as file:
            versions = str(file["versions"])
            return versions, {
                function: [file[f"{function}/{number}"] for number in range(len(function_calls))]
                for function, function_calls in calls.items()
            }
