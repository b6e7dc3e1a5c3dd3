"""Call kernels on NumPy arrays, in a process whose instruction set `KVISION_ISA` decides.

Run by its path, `python kernel_process.py MODULE REQUESTS REPLIES`: MODULE is the path of the
extension module, REQUESTS a pickled list of (function, arguments), REPLIES a pickle to write, of
one list of results a request. TensorFlow is not imported.
"""

import importlib.util
import pickle
import sys


def load(path):
    """The extension module at a path, without the package around it.

    Args:
        path: Of the module's file.
    """
    name = path.rpartition("/")[2].partition(".")[0]
    specification = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def answer(module, requests):
    """The results of every request, each a list.

    Args:
        module: As `load` returns it.
        requests: List of (function, arguments).
    """
    results = [getattr(module, name)(**arguments) for name, arguments in requests]
    return [list(r) if isinstance(r, list | tuple) else [r] for r in results]


def main(path, requests, replies):
    """Answers the requests of a file.

    Args:
        path: Of the module's file.
        requests: Path of the requests.
        replies: Path of the file to write.
    """
    with open(requests, "rb") as file:
        results = answer(load(path), pickle.load(file))
    with open(replies, "wb") as file:
        pickle.dump(results, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
