"""Write a model as a SavedModel, and prove it before it stands at its path."""

import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from kvision.export import parity
from kvision.export.answers import ANSWERS
from kvision.export.endpoints import Endpoints
from kvision.ops import native

_FORMS = ("native", "portable")
_NEEDED = ("task", "decode", "image_size", "resize_policy", "class_names", "num_classes")
_PYTHON_OPS = {"PyFunc", "PyFuncStateless", "EagerPyFunc"}


class ExportReport(NamedTuple):
    """What the exporter compared between the live model and the SavedModel in a fresh process.

    Attributes:
        path: Where the SavedModel stands.
        compared: How many detections, instances, pixels or images were compared, by the model's
            task.
        differences: The largest difference of each kind: of ``scores`` and, of a detector, of
            the corners of ``boxes`` in pixels; of what gives masks, of the ``masks`` too.
    """

    path: Path
    compared: int
    differences: dict


def saved_model(model, path, ops="native", *, overwrite=False, check_images=None, verbose=True):
    """Export a model as a SavedModel and compare it with the live model before returning.

    The SavedModel takes a client's images and answers in each image's own pixels; the model's
    resize policy is part of the graph. Its signatures:

    * ``serving_default``: ``images`` uint8 ``(B, H, W, 3)``, any H and W;
    * ``float``: ``images`` float32 ``(B, H, W, 3)``, 0..255;
    * ``encoded``: ``encoded_images`` string ``(B,)``, JPEG or PNG of any sizes; the others are
      answered where one is damaged;
    * ``class_names``: no input; string ``(num_classes,)``.

    All but the last give, for a

    * detector: ``boxes (B, K, 4)`` float32, ``scores (B, K)`` float32, ``labels (B, K)`` int32
      (-1 is padding) and ``num_detections (B,)`` int32, -1 for a damaged image;
    * instance segmenter: ``instance_ids (B, H, W)`` int32, 0 for none, and ``sizes (B, 2)`` int32,
      as a segmenter; one that detects gives what a detector gives as well, and ``masks (B, K, M,
      M)`` float32, the probabilities of the pixels of each box;
    * segmenter: ``labels (B, H, W)`` int32, ``scores (B, H, W)`` float32 and ``sizes (B, 2)``
      int32. Where the images of a request have several sizes, H and W are the largest, and
      ``labels`` beyond an image are -1. The size of a damaged image is (0, 0);
    * classifier: ``labels (B,)`` int32, -1 for a damaged image, and ``scores (B, num_classes)``
      float32.

    What was written is loaded in a fresh Python process, without kvision, and answers the same
    requests as the live model: boxes must be within 1e-3 pixel, scores within 1e-5, numbers and
    labels equal (where two classes are equally probable, either may stand). Only then it takes its
    place at ``path``.

    Args:
        model: a `kvision.models.ImageModel`, on Keras' TensorFlow backend.
        path: the directory to write, on a local file system.
        ops: ``"native"``: with kvision's own ops, which whoever loads the SavedModel must load
            first, under the TensorFlow version that they were built for; ``"portable"``: core
            TensorFlow ops only, for any stock runtime.
        overwrite: whether a SavedModel that stands at ``path`` is replaced. Anything else there is
            left alone.
        check_images: list of uint8 arrays ``(h, w, 3)`` to compare on, of any sizes; two made-up
            pictures by default. A trained model may well find nothing in those; where nothing was
            there to compare, a warning says so.
        verbose: whether to say what was written and compared.

    Returns:
        `ExportReport`: path, how much was compared, largest differences.

    Raises:
        FileExistsError: something stands at ``path`` and may not be replaced.
        RuntimeError: Keras runs on another backend, the native ops cannot be loaded, the graph
            holds ops that would not run where it is served, or the SavedModel does not give the
            live model's answers. ``path`` is as it was before.
        TypeError: ``model`` is no such model.
        ValueError: an argument has no meaning, or the model has no ``image_size``.
    """
    _check_arguments(model, ops)
    path = _check_path(Path(path), overwrite)
    images = _check_images(check_images, model.image_size)
    requests = parity.make_requests(images)
    op_library = None
    if ops == "native":
        op_library = native.library_path()
        native.load_ops()

    endpoints = Endpoints(model)
    live = [_answer(endpoints, name, value) for name, value in requests]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as workshop:
        draft = Path(workshop, "draft")
        with native.implementation("native" if ops == "native" else "reference"):
            _write(model, endpoints, draft)
        _check_ops(_op_names(draft), ops)
        served = parity.run_in_fresh_process(draft, requests, op_library)
        report = ExportReport(path, *_compare(ANSWERS[model.task], requests, live, served))
        if path.exists():
            path.rename(Path(workshop, "replaced"))
        draft.rename(path)
    if not report.compared:
        asked = "`check_images`" if check_images is None else "other `check_images`"
        warnings.warn(
            "saved_model: the model found nothing in the images of the comparison, so there were "
            f"no {ANSWERS[model.task].counted} to compare. Pass {asked} in which it finds some.",
            RuntimeWarning,
            stacklevel=2,
        )
    if verbose:
        _tell(report, ANSWERS[model.task].counted, ops)
    return report


def _check_arguments(model, ops):
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "saved_model: a SavedModel is written by TensorFlow, but Keras runs on "
            f"{keras.backend.backend()!r} here. Save the model with `model.save('model.keras')`, "
            "load it in a process started with KERAS_BACKEND=tensorflow and export it there."
        )
    if ops not in _FORMS:
        raise ValueError(f"saved_model: `ops` must be 'native' or 'portable'. Received: {ops!r}.")
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing or not isinstance(model, keras.Model):
        raise TypeError(
            "saved_model: `model` must be a kvision.models.ImageModel, or a keras.Model with "
            f"{', '.join(f'`{name}`' for name in _NEEDED)}. Received: {type(model).__name__}"
            + (f", without {', '.join(f'`{name}`' for name in missing)}." if missing else ".")
        )
    if model.task not in ANSWERS:
        raise TypeError(
            f"saved_model: `model.task` must be one of {sorted(ANSWERS)}. Received: {model.task!r}."
        )
    if model.image_size is None:
        raise ValueError(
            f"saved_model: {type(model).__name__} has no `image_size`. Set `model.image_size = "
            "(height, width)`, to which served images are resized."
        )


def _check_path(path, overwrite):
    """The absolute path, where a SavedModel may be put."""
    path = path.absolute()
    replaceable = path.is_dir() and (
        Path(path, "saved_model.pb").exists() or not any(path.iterdir())
    )
    if path.exists() and not (overwrite and replaceable):
        remedy = "pass overwrite=True to replace it" if replaceable else "it is no SavedModel"
        raise FileExistsError(f"saved_model: {path} exists; {remedy}.")
    return path


def _check_images(images, image_size):
    """The images to compare on."""
    if images is None:
        return parity.sample_images(image_size)
    shapes = [(getattr(i, "dtype", None), getattr(i, "shape", ())) for i in images]
    if not shapes or any(t != "uint8" or len(s) != 3 or s[2] != 3 for t, s in shapes):
        raise ValueError(
            "saved_model: `check_images` must be uint8 arrays of shape (height, width, 3). "
            f"Received: {', '.join(f'{t} {s}' for t, s in shapes) or 'none'}."
        )
    return [np.asarray(image) for image in images]


def _answer(endpoints, name, value):
    import tensorflow as tf

    function = endpoints.predict_encoded if name == "encoded" else endpoints.predict
    return {key: tensor.numpy() for key, tensor in function(tf.constant(value)).items()}


def _write(model, endpoints, path):
    import tensorflow as tf

    def trace(function, *specs):
        return tf.function(function, input_signature=specs, autograph=False)

    pixels = (None, None, None, 3)
    module = tf.Module()
    module.model_variables = [variable.value for variable in model.variables]
    signatures = {
        "serving_default": trace(endpoints.predict, tf.TensorSpec(pixels, "uint8", "images")),
        "float": trace(endpoints.predict, tf.TensorSpec(pixels, "float32", "images")),
        "encoded": trace(
            endpoints.predict_encoded, tf.TensorSpec((None,), "string", "encoded_images")
        ),
        "class_names": trace(endpoints.class_names),
    }
    tf.saved_model.save(module, str(path), signatures)


def _op_names(path):
    """Names of the ops in a SavedModel's graph and functions."""
    from tensorflow.core.protobuf import saved_model_pb2

    written = saved_model_pb2.SavedModel.FromString(Path(path, "saved_model.pb").read_bytes())
    graphs = [meta_graph.graph_def for meta_graph in written.meta_graphs]
    functions = [function.node_def for graph in graphs for function in graph.library.function]
    return {node.op for nodes in (*(graph.node for graph in graphs), *functions) for node in nodes}


def _check_ops(op_names, ops):
    """Refuse ops that would not run where the SavedModel is served."""
    foreign = sorted(
        name for name in op_names if name in _PYTHON_OPS or (ops == "portable" and ">" in name)
    )
    if foreign:
        raise RuntimeError(
            f"saved_model: the {ops} graph holds {', '.join(foreign)}, which "
            + ("need this Python process" if ops == "native" else "no stock runtime runs")
            + ". A layer of the model calls an op that has no reference implementation."
        )


def _compare(answers, requests, live, served):
    """How much was compared and the largest differences, over all requests."""
    count, largest = 0, {}
    for (name, _), expected, received in zip(requests, live, served, strict=True):
        try:
            compared, differences = answers.compare(expected, received)
        except ValueError as difference:
            raise RuntimeError(
                f"saved_model: the exported model does not give the live model's "
                f"{answers.counted}, so nothing was written. Signature `{name}`: {difference}."
            ) from None
        count += compared
        largest = {kind: max(largest.get(kind, 0.0), value) for kind, value in differences.items()}
    return count, largest


def _tell(report, counted, ops):
    differences = ", ".join(
        f"{kind} within {value:.1e}{' px' if kind == 'boxes' else ''}"
        for kind, value in report.differences.items()
    )
    print(
        f"Wrote {report.path} ({ops} ops). In a fresh process it gave the live model's "
        f"{report.compared} {counted}{differences and ': ' + differences}."
    )
