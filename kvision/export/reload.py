"""Answer stored requests from a SavedModel, in a process that knows nothing of kvision.

The exporter runs this file by its path::

    python -P reload.py MODEL REQUESTS.npz REPLIES.npz [OP_LIBRARY]
"""

import sys

import numpy as np
import tensorflow as tf


def main(model_path, requests_path, replies_path, *op_libraries):
    """Run every request and store every output.

    Args:
        model_path: the SavedModel's directory.
        requests_path: ``.npz`` whose keys are ``"<number> <signature>"``.
        replies_path: ``.npz`` to write, with keys ``"<number> <output name>"``.
        *op_libraries: op libraries to load first.

    Raises:
        RuntimeError: kvision was imported on the way.
    """
    for library in op_libraries:
        tf.load_op_library(library)
    signatures = tf.saved_model.load(model_path).signatures
    replies = {}
    with np.load(requests_path) as requests:
        for key, value in requests.items():
            number, name = key.split()
            function = signatures[name]
            (argument,) = function.structured_input_signature[1]
            outputs = function(**{argument: tf.constant(value)})
            replies |= {f"{number} {output}": outputs[output].numpy() for output in outputs}
    if "kvision" in sys.modules:
        raise RuntimeError("The reloaded SavedModel imported kvision.")
    np.savez(replies_path, **replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
