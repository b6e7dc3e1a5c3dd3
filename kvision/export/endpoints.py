"""What the signatures of an exported model compute: images in, answers in their own pixels out.

The functions run eagerly on the live model, and are traced into the SavedModel: the exporter
compares the two.
"""

from kvision.boxes.resize import resize_images
from kvision.export.answers import ANSWERS
from kvision.export.requests import decode_image, looks_whole


class Endpoints:
    """A model between a client's images and a client's answers.

    Every function but the last returns the outputs of the model's task, see
    `kvision.export.answers`, in the pixels of each image as the client sent it.

    Args:
        model: a `kvision.models.ImageModel` with an ``image_size``; every image is resized to it
            by the model's ``resize_policy``.
    """

    def __init__(self, model):
        import tensorflow as tf

        self._model = model
        self._answers = ANSWERS[model.task]
        self._image_size = model.image_size
        self._resize_policy = model.resize_policy
        self._blank = tf.io.encode_png(tf.zeros((1, 1, 3), "uint8"))
        self._class_names = [str(name) for name in model.class_names or range(model.num_classes)]

    def predict(self, images):
        """Answers for images of one size.

        Args:
            images: ``(B, H, W, 3)``, uint8 or float32 in 0..255.
        """
        import tensorflow as tf

        count, *size, channels = tf.unstack(tf.shape(images))
        images = _never_empty(images, tf.zeros((1, *size, channels), images.dtype))
        sizes = tf.tile([size], [tf.shape(images)[0], 1])
        images = resize_images(images, self._image_size, self._resize_policy)
        return _first(count, self._answer(images, sizes))

    def predict_encoded(self, encoded_images):
        """Answers for JPEG and PNG strings of any sizes.

        A string that is no whole JPEG or PNG gets the outputs that are said for a damaged image.

        Args:
            encoded_images: string ``(B,)``.
        """
        import tensorflow as tf

        strings = _never_empty(encoded_images, self._blank[None])
        whole = looks_whole(strings)
        strings = tf.where(whole, strings, self._blank)
        answers = self._answer(*self._load(strings))
        answers = {
            name: tf.where(tf.reshape(whole, [-1] + [1] * (value.shape.rank - 1)), value, nothing)
            for name, value in answers.items()
            for nothing in [self._answers.damaged[name]]
        }
        return _first(tf.shape(encoded_images)[0], answers)

    def class_names(self):
        """The name of each class: string ``(num_classes,)``, the number where it has no name."""
        import tensorflow as tf

        return {"class_names": tf.constant(self._class_names)}

    def _answer(self, images, sizes):
        """Answers for images of the model's size, carried to the clients' sizes ``(B, 2)``."""
        import tensorflow as tf

        raw = self._model(tf.cast(images, "float32"), training=False)
        return self._answers.answer(self._model, raw, sizes)

    def _load(self, strings):
        """Decoded images ``(B, *image_size, 3)`` and their own sizes ``(B, 2)``."""
        import tensorflow as tf

        def load(string):
            image = decode_image(string)
            return resize_images(image, self._image_size, self._resize_policy), tf.shape(image)[:2]

        return tf.map_fn(
            load,
            strings,
            fn_output_signature=(
                tf.TensorSpec((*self._image_size, 3), "uint8"),
                tf.TensorSpec((2,), "int32"),
            ),
        )


def _never_empty(batch, spare):
    """The batch, or the spare one where it is empty: TensorFlow's convolutions fail on nothing."""
    import tensorflow as tf

    return tf.concat([batch, spare[: tf.maximum(1 - tf.shape(batch)[0], 0)]], axis=0)


def _first(count, answers):
    """The answers for the first images."""
    return {name: value[:count] for name, value in answers.items()}
