"""The base of every model: what it is called with, what it answers, how it is kept and exported."""

import contextlib
import inspect
from numbers import Integral

import keras

from kvision.boxes.resize import check_image_size, check_resize
from kvision.layers import FeatureSpec
from kvision.layers.freezing import frozen_layers, make_frozen
from kvision.models.data_checks import check_images, check_pixels


class ImageModel(keras.Model):
    """A `keras.Model` that takes images of 0..255 and knows what its classes are.

    A subclass has `call(images, training=None)`, whose raw outputs its losses are made of, and
    `decode(raw)`, which turns them into what a user wants and `predict` returns. Its `task` says
    which of these answers it is: `"classification"`, `"segmentation"`, `"detection"` or
    `"instances"`; `export` goes by it.

    Layers that are frozen (`trainable = False`) when the model is saved are so when it is loaded.

    Args:
        num_classes: Number of classes; labels run from 0 to `num_classes - 1`.
        class_names: Names of the classes, in the order of the labels. `None` if unnamed.
        image_size: `(height, width)` in pixels that served images are resized to, or one integer
            for both. `None`: it cannot be exported until `image_size` is set.
        resize_policy: `"letterbox"` or `"stretch"`, see `kvision.boxes.resize`: how the images
            given were made from the original images, and how served images are resized.
        **kwargs: Arguments of `keras.Model`, such as `name` and `dtype`.

    Raises:
        ValueError: If the number of class names is not `num_classes`, or an argument is outside
            its range.
    """

    task = None
    image_channels = 3

    def __init__(
        self,
        *,
        num_classes,
        class_names=None,
        image_size=None,
        resize_policy="letterbox",
        **kwargs,
    ):
        super().__init__(autocast=False, **kwargs)  # or pixels and boxes lose bits
        name = type(self).__name__
        if not isinstance(num_classes, Integral) or num_classes < 1:
            raise ValueError(
                f"{name}: `num_classes` must be an integer, at least 1. Received: {num_classes!r}."
            )
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"{name}: `class_names` must name all {num_classes} classes. "
                f"Received: {len(class_names)} names."
            )
        check_resize(name, (1, 1), resize_policy)
        self.backbone = None  # Not of the class: it would hide the module that PyTorch keeps.
        self.num_classes = int(num_classes)
        self.class_names = None if class_names is None else list(class_names)
        self.image_size = image_size
        self.resize_policy = resize_policy

    @property
    def image_size(self):
        """`(height, width)` that served images are resized to, or `None`. One integer sets both."""
        return self._image_size

    @image_size.setter
    def image_size(self, image_size):
        if isinstance(image_size, Integral):
            image_size = (image_size, image_size)
        if image_size is not None:
            image_size = check_image_size(type(self).__name__, image_size)
        self._image_size = image_size

    @property
    def smallest_image(self):
        """The least height and width of an image, in pixels."""
        return getattr(self.backbone, "smallest_image", 1)

    def __call__(self, images, *args, **kwargs):
        """Calls the model.

        Args:
            images: `(B, H, W, 3)`, values in 0..255.
            *args: Arguments of `call`.
            **kwargs: Arguments of `call`.

        Returns:
            What `call` returns.

        Raises:
            ValueError: If the images have another shape, are too small, or are a whole batch
                dictionary.
        """
        check_images(type(self).__name__, images)
        channels = self.image_channels
        shape = tuple(getattr(images, "shape", (None, None, None, channels)))
        if len(shape) != 4 or shape[3] not in (None, channels):
            raise ValueError(
                f"{type(self).__name__}: images must have shape (batch, height, width, "
                f"{channels}). Received: {shape}."
            )
        if any(side is not None and side < self.smallest_image for side in shape[1:3]):
            raise ValueError(
                f"{type(self).__name__}: images must be at least {self.smallest_image} pixels high "
                f"and wide. Received: {shape}."
            )
        return super().__call__(images, *args, **kwargs)

    def default_loss(self):
        """Returns the documented loss, for `compile` without one.

        Returns:
            A `keras.losses.Loss`, or `None` where the model computes its own.
        """
        return None

    def default_metrics(self):
        """Returns the metrics for `compile` without any.

        Returns:
            A list of `keras.metrics.Metric`, or `None`.
        """
        return None

    def compile(
        self, optimizer="rmsprop", loss=None, metrics=None, *, jit_compile="auto", **kwargs
    ):
        """Configures the model for training.

        Args:
            optimizer: A Keras optimizer or its name.
            loss: A Keras loss; the documented loss of the model by default.
            metrics: Keras metrics; those that are usual for the task by default, `[]` for none.
            jit_compile: `True`, `False` or `"auto"`, see `keras.Model.compile`.
            **kwargs: Arguments of `keras.Model.compile`.
        """
        self._asked = {"loss": loss, "metrics": metrics, "jit_compile": jit_compile}
        super().compile(
            optimizer,
            loss=self.default_loss() if loss is None else loss,
            metrics=self.default_metrics() if metrics is None else metrics,
            jit_compile=jit_compile,
            **kwargs,
        )

    def fit(self, *args, **kwargs):
        """Trains the model, after a look at arrays of targets.

        Args:
            *args: Arguments of `keras.Model.fit`.
            **kwargs: Arguments of `keras.Model.fit`.

        Returns:
            The `keras.callbacks.History`.

        Raises:
            ValueError: If a label is outside the classes.
        """
        self._check_given("fit", args, kwargs)
        with self._making_steps_anew_after_errors():
            return super().fit(*args, **kwargs)

    def evaluate(self, *args, **kwargs):
        """Returns losses and metrics, after a look at arrays of targets.

        Args:
            *args: Arguments of `keras.Model.evaluate`.
            **kwargs: Arguments of `keras.Model.evaluate`.

        Returns:
            What `keras.Model.evaluate` returns.

        Raises:
            ValueError: If a label is outside the classes.
        """
        self._check_given("evaluate", args, kwargs)
        with self._making_steps_anew_after_errors():
            return super().evaluate(*args, **kwargs)

    def train_on_batch(self, *args, **kwargs):
        """Runs one training step, after a look at the targets.

        Args:
            *args: Arguments of `keras.Model.train_on_batch`.
            **kwargs: Arguments of `keras.Model.train_on_batch`.

        Returns:
            What `keras.Model.train_on_batch` returns.

        Raises:
            ValueError: If a label is outside the classes.
        """
        self._check_given("train_on_batch", args, kwargs)
        with self._making_steps_anew_after_errors():
            return super().train_on_batch(*args, **kwargs)

    def test_on_batch(self, *args, **kwargs):
        """Runs one step of evaluation, after a look at the targets.

        Args:
            *args: Arguments of `keras.Model.test_on_batch`.
            **kwargs: Arguments of `keras.Model.test_on_batch`.

        Returns:
            What `keras.Model.test_on_batch` returns.

        Raises:
            ValueError: If a label is outside the classes.
        """
        self._check_given("test_on_batch", args, kwargs)
        with self._making_steps_anew_after_errors():
            return super().test_on_batch(*args, **kwargs)

    @contextlib.contextmanager
    def _making_steps_anew_after_errors(self):
        """TensorFlow's functions make variables in their first trace alone, even if it failed."""
        try:
            yield
        except Exception:
            self.train_function = self.test_function = None
            raise

    def _check_given(self, method, args, kwargs):
        """Checks the targets that a method of Keras' was given, whatever the backend compiles.

        Returns the arguments by their names.
        """
        given = inspect.signature(getattr(keras.Model, method)).bind(self, *args, **kwargs)
        given = given.arguments
        check_pixels(type(self).__name__, given.get("x"))
        self._check_targets(given.get("y"))
        validation = given.get("validation_data")
        if isinstance(validation, (list, tuple)) and len(validation) > 1:
            self._check_targets(validation[1])
        return given

    def _check_batch(self, data):
        """Raises a `ValueError` for a batch that is none; JAX' steps do not come by `__call__`."""
        check_images(type(self).__name__, keras.utils.unpack_x_y_sample_weight(data)[0])

    def _check_targets(self, targets):
        """Raises a `ValueError` for targets, or `None`, that the model cannot learn from."""

    def decode(self, raw):
        """Returns the answer for the images given.

        Args:
            raw: What `call` returned.

        Returns:
            A dictionary of tensors, each with the images' axis first.
        """
        raise NotImplementedError

    def train_step(self, *args):
        """Runs Keras' own training step, after a look at the batch.

        Args:
            *args: The arguments of the training step of the active backend.

        Returns:
            What Keras' own step returns.
        """
        self._check_batch(args[-1])
        return super().train_step(*args)

    def test_step(self, *args):
        """Runs Keras' own test step, after a look at the batch.

        Args:
            *args: The arguments of the test step of the active backend.

        Returns:
            What Keras' own step returns.
        """
        self._check_batch(args[-1])
        return super().test_step(*args)

    def predict_step(self, *args):
        """Runs Keras' own predict step, after a look at the batch, and decodes its result.

        Args:
            *args: The arguments of the predict step of the active backend.

        Returns:
            What `decode` returns; on JAX, a tuple of that and the state.
        """
        self._check_batch(args[-1])
        outputs = super().predict_step(*args)
        if keras.backend.backend() == "jax":
            raw, state = outputs
            return self.decode(raw), state
        return self.decode(outputs)

    def predict(self, *args, **kwargs):
        """Returns the decoded answers for all images.

        Args:
            *args: Arguments of `keras.Model.predict`.
            **kwargs: Arguments of `keras.Model.predict`.

        Returns:
            What `decode` returns, as arrays; of data whose batches have images of several sizes, on
            TensorFlow, maps as `tf.RaggedTensor`.

        Raises:
            ValueError: If the data hold no image, or are a list.
        """
        x = args[0] if args else kwargs.get("x")
        if isinstance(x, list | tuple):
            raise ValueError(
                f"{type(self).__name__}: images must be one array (B, H, W, C), or a data set. Of "
                "images of several sizes, predict one after the other. "
                f"Received: a {type(x).__name__} of {len(x)}."
            )
        check_pixels(type(self).__name__, x)
        try:
            return super().predict(*args, **kwargs)
        except UnboundLocalError as error:  # how Keras takes it
            raise ValueError(
                f"{type(self).__name__}: there is no image to predict in the data."
            ) from error

    def export(self, path, format="tf_saved_model", **kwargs):
        """Writes a SavedModel, see `kvision.export.saved_model`.

        Args:
            path: Folder to write.
            format: `"tf_saved_model"`.
            **kwargs: Arguments of `kvision.export.saved_model`.

        Returns:
            What `kvision.export.saved_model` returns.

        Raises:
            ValueError: If another format is asked for.
        """
        from kvision.export import saved_model

        if format != "tf_saved_model":
            raise ValueError(
                f"{type(self).__name__}: `export` writes format='tf_saved_model' only. "
                f"Received: {format!r}."
            )
        return saved_model(self, path, **kwargs)

    def get_compile_config(self):
        """Returns the serialised arguments of `compile`.

        Returns:
            A dictionary, empty before `compile`.
        """
        config = super().get_compile_config()
        if not config:
            return config
        # What was left to the model is left to it again.
        for name in ("loss", "metrics"):
            if self._asked[name] is None:
                del config[name]
        # Keras keeps what "auto" came to here, which on another backend may come to something else.
        config["jit_compile"] = self._asked["jit_compile"]
        optimizer = config["optimizer"]
        if optimizer["module"].startswith("keras.src.backend."):
            # PyTorch's variant of an optimizer of Keras', which no other backend can import.
            config["optimizer"] = {**optimizer, "module": "keras.optimizers"}
        return config

    def compile_from_config(self, config):
        """Compiles the model as it was compiled when it was saved.

        Args:
            config: What `get_compile_config` returned.
        """
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self):
        """Returns the constructor arguments of this base class, and which layers are frozen.

        Returns:
            A dictionary that subclasses extend with their own arguments.
        """
        config = {
            **super().get_config(),
            "num_classes": self.num_classes,
            "class_names": self.class_names,
            "image_size": self.image_size,
            "resize_policy": self.resize_policy,
            "frozen_layers": frozen_layers(self),
        }
        if self.backbone is not None:
            specs = self.backbone.feature_specs
            config["backbone"] = keras.saving.serialize_keras_object(self.backbone)
            config["feature_specs"] = {name: list(spec) for name, spec in specs.items()}
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Makes a model of what `get_config` returned.

        Args:
            config: The dictionary.
            custom_objects: Names and classes of unregistered custom objects.

        Returns:
            A model of this class, in which the same layers are frozen.
        """
        config = dict(config)
        specs = config.pop("feature_specs", None)
        if specs is not None:
            backbone = keras.saving.deserialize_keras_object(
                config["backbone"], custom_objects=custom_objects
            )
            if not hasattr(backbone, "feature_specs"):  # put on a model whose class knows none
                backbone.feature_specs = {name: FeatureSpec(*spec) for name, spec in specs.items()}
            config["backbone"] = backbone
        return make_frozen(cls, config)


def coarsest_level(owner, backbone):
    """Returns the last level of a backbone.

    Args:
        owner: Name of the model, for the message.
        backbone: What the model was given.

    Returns:
        Its name and its `kvision.layers.FeatureSpec`.

    Raises:
        ValueError: If it is no pyramid model.
    """
    if not hasattr(backbone, "feature_specs"):
        raise ValueError(
            f"{owner}: `backbone` must have `feature_specs`, as those of kvision.backbones, whose "
            f"`from_keras` gives them to other models. Received: {type(backbone).__name__}."
        )
    return list(backbone.feature_specs.items())[-1]
