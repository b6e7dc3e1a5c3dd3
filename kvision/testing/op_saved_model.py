"""SavedModels: an op, saved, gives the same in a process of its own, and its gradient too.

The serving process outlives a test, so that hundreds of generated calls share one start of
TensorFlow; one that dies or does not answer fails the call that did it, and is replaced.
"""

import atexit
import contextlib
import functools
import os
import select
import subprocess
import sys
from pathlib import Path

import numpy as np

from kvision.testing import op_results
from kvision.testing.op_shapes import signature
from kvision.testing.serving_process import read, write

_SECONDS = 120


class ServingProcess:
    """A process that answers calls of SavedModels.

    Args:
        libraries: Paths of op libraries to load beside kvision's.
    """

    def __init__(self, libraries=()):
        self.libraries = tuple(libraries)
        self._process = None
        atexit.register(self.close)

    def call(self, path, function, inputs, watched=()):
        """Calls a function of a SavedModel.

        Args:
            path: Folder of the SavedModel.
            function: Name of the function.
            inputs: Name -> array.
            watched: Inputs to return the gradient to, of the sum of the floating outputs, which
                a tape takes through the loaded function, in place of the outputs.

        Returns:
            Name -> array, or a pair (name of the error, message).

        Raises:
            AssertionError: If the process died or did not answer.
        """
        if self._process is None:
            self._process = self._start()
        stream = self._process.stdout
        with contextlib.suppress(BrokenPipeError):  # of a process that is gone: nothing to read
            write(self._process.stdin, (str(path), function, inputs, watched))
        if not select.select([stream], [], [], _SECONDS)[0]:
            self.close()
            raise AssertionError(f"A SavedModel did not answer within {_SECONDS} seconds.")
        reply = read(stream)
        if reply is None:
            status = self._process.wait()
            self.close()
            raise AssertionError(f"A SavedModel ended its process: exit status {status}.")
        return reply

    def close(self):
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self):
        script = Path(__file__).with_name("serving_process.py")
        root = str(Path(__file__).parents[2])
        return subprocess.Popen(
            # -P: the folder of the script, which holds modules of its own, is not searched.
            [sys.executable, "-P", str(script), *self.libraries],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": root},
        )


@functools.cache
def serving_process(libraries=()):
    """The one process that serves models which need these libraries.

    Args:
        libraries: Tuple of paths.
    """
    return ServingProcess(libraries)


def save(contract, folder):
    """Saves the functions of an op: "call_<variant>" and "differentiate_<variant>" of each variant.

    Args:
        contract: `OpContract`.
        folder: Path to save to.
    """
    import tensorflow as tf

    module = tf.Module()
    for name, variant in contract.variants.items():
        hidden = dict.fromkeys(contract.named_axes(variant))
        specs = signature(contract, variant, hidden, contract.default_dtype)
        call, differentiate = _functions(contract, variant)
        setattr(module, f"call_{name}", _traced(call, specs))
        if contract.differentiable(variant):
            setattr(module, f"differentiate_{name}", _traced(differentiate, specs))
    tf.saved_model.save(module, str(folder))


def check_saved_model(contract, name, path):
    """Raises `AssertionError` unless the saved op gives what it gives here, and its gradient.

    Args:
        contract: `OpContract`.
        name: Name of the variant.
        path: Folder that `save` has written.
    """
    variant = contract.variants[name]
    arguments = contract.arguments_of(variant)
    process = serving_process(tuple(contract.libraries))
    usual = contract.sizes_of(variant)
    for seed, sizes in enumerate([usual, {axis: size + 2 for axis, size in usual.items()}]):
        inputs = contract.draw(variant, sizes, contract.default_dtype, seed)
        wanted = op_results.results(contract, inputs, arguments)
        _check_reply(process.call(path, f"call_{name}", inputs), wanted)
        watched = contract.differentiable(variant)
        if watched:
            promised = contract.promised(variant, sizes, contract.default_dtype, arguments)
            ones = {
                key: np.ones(value.shape, value.dtype)
                for key, value in wanted.items()
                if "float" in promised[key][1]
            }
            gradients = op_results.gradients(contract, inputs, arguments, ones, watched)
            _check_reply(process.call(path, f"differentiate_{name}", inputs), gradients)
            _check_reply(process.call(path, f"call_{name}", inputs, watched), gradients)


def _functions(contract, variant):
    """The outputs, and the gradients of the sum of the floating ones, from inputs by name."""
    arguments, watched = contract.arguments_of(variant), contract.differentiable(variant)
    both = op_results.outputs_and_gradients(contract, arguments, watched)
    return (lambda inputs: contract.call(inputs, arguments)), (lambda inputs: both(inputs)[1])


def _traced(function, specs):
    import tensorflow as tf

    return tf.function(function, input_signature=[specs], autograph=False)


def _check_reply(reply, wanted):
    if isinstance(reply, tuple):
        raise AssertionError(f"The SavedModel raised {reply[0]}: {reply[1]}")
    op_results.check_same(reply, wanted)
