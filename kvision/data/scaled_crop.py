"""Windows of images at random scales, as segmenters are trained on."""

import keras


@keras.saving.register_keras_serializable("kvision")
class RandomScaledCrop(keras.layers.RandomCrop):
    """Scales each image at random and gives a window of it, for `augment`.

    The scale is uniform in its range; the window's place is uniform among those that lie within the
    scaled image or, along an axis in which the image is smaller than the window, among those that
    hold all of it. Each image has a scale and a place of its own. Pixels are sampled bilinearly,
    masks to nearest.

    A scale of 0.5 to 2 and windows of about the size of the images are what FCN's successors are
    trained on (L.-C. Chen et al., "Rethinking Atrous Convolution", 2017).

    Args:
        height: int, of the window.
        width: int, of the window.
        scale: ``(least, most)``, positive floats.
        fill_value: float, the colour of what the image does not cover; in masks it is ignored.
        seed: int or None.
        **kwargs: Arguments of `keras.layers.RandomCrop`.

    Raises:
        ValueError: ``scale`` is not two positive numbers in order, or images are channels first.
    """

    def __init__(self, height, width, scale=(0.5, 2.0), fill_value=0.0, seed=None, **kwargs):
        super().__init__(height, width, seed=seed, **kwargs)
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise ValueError(
                "RandomScaledCrop: `scale` must be (least, most), both positive. "
                f"Received: {scale}."
            )
        if self.data_format != "channels_last":
            raise ValueError("RandomScaledCrop: images must be channels last.")
        self.scale = tuple(scale)
        self.fill_value = fill_value

    def get_random_transformation(self, data, training=True, seed=None):
        """Draw a scale and a place for each image.

        Args:
            data: images ``(B, H, W, C)``, or a dictionary with ``images``.
            training: bool; False takes the middle, unscaled.
            seed: `keras.random.SeedGenerator` or None.

        Returns:
            ``(B, 8)``: the affine maps from the window's pixels to the image's, as
            `keras.ops.image.affine_transform` takes them.
        """
        xp, random = self.backend.numpy, self.backend.random
        images = data["images"] if isinstance(data, dict) else data
        batch_size, height, width = self.backend.shape(images)[:3]
        seed = seed or self._get_seed_generator(self.backend._backend)

        def draw(low, high):
            if not training:
                return xp.full((batch_size,), (low + high) / 2)
            return random.uniform((batch_size,), low, high, seed=seed)

        scale = draw(*(self.scale if training else (1.0, 1.0)))
        moves = []
        for size, window in ((width, self.width), (height, self.height)):
            room = scale * self.backend.cast(size, "float32") - window
            # Pixel centres are counted as whole numbers.
            moves.append((0.5 + room * draw(0.0, 1.0)) / scale - 0.5)
        zero = xp.zeros_like(scale)
        rows = [1 / scale, zero, moves[0], zero, 1 / scale, moves[1], zero, zero]
        return xp.stack(rows, -1)

    def transform_images(self, images, transformation, training=True):
        """Sample the windows bilinearly.

        Args:
            images: ``(B, H, W, C)``.
            transformation: what `get_random_transformation` gave.
            training: bool, without a meaning.

        Returns:
            ``(B, height, width, C)``.
        """
        return self._sample(images, transformation, "bilinear")

    def transform_segmentation_masks(self, segmentation_masks, transformation, training=True):
        """Sample the windows to nearest.

        Args:
            segmentation_masks: ``(B, H, W, C)``.
            transformation: what `get_random_transformation` gave.
            training: bool, without a meaning.

        Returns:
            ``(B, height, width, C)``.
        """
        return self._sample(segmentation_masks, transformation, "nearest")

    def transform_bounding_boxes(self, bounding_boxes, transformation, training=True):
        """Refuse: `augment` moves boxes.

        Args:
            bounding_boxes: dictionary.
            transformation: what `get_random_transformation` gave.
            training: bool.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError("RandomScaledCrop: boxes are moved by `kvision.data.augment`.")

    def _sample(self, images, transformation, interpolation):
        images = self.backend.cast(images, self.compute_dtype)
        # The transform gives as many pixels as it takes.
        missing = [
            (0, max(want - have, 0))
            for want, have in zip((self.height, self.width), images.shape[1:3], strict=True)
        ]
        images = self.backend.numpy.pad(
            images, [(0, 0), *missing, (0, 0)], constant_values=self.fill_value
        )
        images = self.backend.image.affine_transform(
            images,
            transformation,
            interpolation=interpolation,
            fill_mode="constant",
            fill_value=self.fill_value,
            data_format="channels_last",
        )
        return images[:, : self.height, : self.width]

    def get_config(self):
        """Give the constructor's arguments."""
        return super().get_config() | {"scale": self.scale, "fill_value": self.fill_value}
