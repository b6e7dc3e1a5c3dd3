"""What all backbones are: functional models from images to a pyramid of feature maps."""

import keras

from kvision.layers import FeatureSpec
from kvision.layers.freezing import frozen_layers, make_frozen


class Backbone(keras.Model):
    """Functional model from images to a pyramid, with the configuration that families share.

    A family makes its layers with `Parts` in its constructor, each named `stage<number>_...`, and
    hands over the tensors. Every kernel starts from He's normal distribution by fan-out, and
    normalisations from the identity.

    Args:
        parts: The `Parts` that the layers were made with.
        images: Input of the images.
        pyramid: Level -> feature map, finest first.
        strides: Level -> image pixels between two of its positions.
        smallest_image: Shortest side of an image, in pixels, of which no map is empty.
        name: Name of the model.

    Attributes:
        feature_specs: `FeatureSpec` of every output level, finest first.
        smallest_image: The argument.
    """

    def __init__(self, parts, images, pyramid, strides, *, smallest_image=1, name):
        super().__init__(inputs=images, outputs=pyramid, name=name)
        self.autocast = False
        self.feature_specs = {
            level: FeatureSpec(x.shape[-1], strides[level]) for level, x in pyramid.items()
        }
        self.smallest_image = smallest_image
        self.output_stride = parts.output_stride
        self.normalization = parts.normalization
        self.epsilon = parts.epsilon
        self.frozen_stages = parts.frozen_stages
        self.normalize_pixels = parts.normalize_pixels
        self._policy = parts.policy
        frozen_prefixes = tuple(f"stage{stage}_" for stage in range(1, parts.frozen_stages + 1))
        for layer in self.layers:
            if layer.name.startswith(frozen_prefixes):
                layer.trainable = False

    def get_config(self):
        return {
            "output_stride": self.output_stride,
            "normalization": self.normalization,
            "epsilon": self.epsilon,
            "frozen_stages": self.frozen_stages,
            "normalize_pixels": self.normalize_pixels,
            "dtype": keras.dtype_policies.serialize(self._policy),
            "name": self.name,
            "frozen_layers": frozen_layers(self),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return make_frozen(cls, config)
