"""Answer calls of SavedModels, in a process that never saw the Python of their ops.

Run by its path, `python serving_process.py [OP_LIBRARY ...]`; requests and replies are pickles of
plain Python and NumPy values, each after its length, through standard input and output.
"""

import os
import pickle
import struct
import sys


def read(stream):
    """The next message of a stream, or None at its end.

    Args:
        stream: Binary file.
    """
    header = stream.read(8)
    return pickle.loads(stream.read(*struct.unpack("<q", header))) if len(header) == 8 else None


def write(stream, message):
    """Writes a message to a stream.

    Args:
        stream: Binary file.
        message: What pickle can hold.
    """
    data = pickle.dumps(message)
    stream.write(struct.pack("<q", len(data)) + data)
    stream.flush()


def main(*libraries):
    """Answers requests until the input ends.

    Args:
        *libraries: Paths of op libraries to load beside kvision's.
    """
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed must not stand among the replies

    import kvision.ops.native

    kvision.ops.native.load_ops()
    import tensorflow as tf

    for library in libraries:
        tf.load_op_library(library)
    models = {}
    while (request := read(sys.stdin.buffer)) is not None:
        path, name, inputs, watched = request
        try:
            if path not in models:
                models[path] = tf.saved_model.load(path)
            tensors = {key: tf.constant(value) for key, value in inputs.items()}
            with tf.GradientTape() as tape:
                tape.watch([tensors[key] for key in watched])
                outputs = getattr(models[path], name)(tensors)
                floating = [value for value in outputs.values() if value.dtype.is_floating]
            if watched:
                outputs = tape.gradient(floating, {key: tensors[key] for key in watched})
            reply = {key: tf.convert_to_tensor(value).numpy() for key, value in outputs.items()}
        except Exception as error:
            reply = type(error).__name__, getattr(error, "message", None) or str(error)
        write(replies, reply)


if __name__ == "__main__":
    main(*sys.argv[1:])
