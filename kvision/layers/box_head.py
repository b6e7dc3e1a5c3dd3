"""Head of the second stage: what is in a region, and where exactly."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("kvision")
class BoxHead(keras.layers.Layer):
    """Classifies pooled regions and moves their boxes, a box for each class.

    Two dense layers with ReLU, then one for the class logits and one for the offsets (Girshick,
    "Fast R-CNN", 2015, on the pooled maps of a feature pyramid as in Lin et al., 2017). The
    predictors start from N(0, 0.01^2) and N(0, 0.001^2). Without the dense layers the predictors
    read the mean of each region's map: where a backbone's last stage has been run on it (He, Zhang,
    Ren, Sun, "Deep Residual Learning", 2016, appendix A).

    Column 0 of both outputs is the background: class c stands in column c + 1. The offsets of the
    background are neither trained nor read; they are there because torchvision's are.

    Input: `(B, R, h, w, C)`, pooled features, h, w and C static; h and w may be unknown without the
    dense layers.
    Output: `(class_logits (B, R, K + 1), box_deltas (B, R, K + 1, 4))`, float32 under every dtype
    policy.

    Args:
        num_classes: Number K of object classes, positive.
        units: Width of the two dense layers, positive; `None` for none.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: For an argument out of its range.
    """

    def __init__(self, num_classes, *, units=1024, **kwargs):
        super().__init__(**kwargs)
        if num_classes < 1 or (units is not None and units < 1):
            raise ValueError(
                "BoxHead: `num_classes` and `units` must be positive. "
                f"Received: num_classes={num_classes}, units={units}."
            )
        self.num_classes = num_classes
        self.units = units
        names = [] if units is None else ["dense_1", "dense_2"]
        self.hidden = [self._hidden(name) for name in names]
        self.classifier = self._predictor(num_classes + 1, 0.01, "classifier")
        self.regressor = self._predictor(4 * (num_classes + 1), 0.001, "regressor")

    def _hidden(self, name):
        return keras.layers.Dense(
            self.units,
            activation="relu",
            kernel_initializer=keras.initializers.VarianceScaling(1.0, "fan_in", "uniform"),
            dtype=self.dtype_policy,
            name=name,
        )

    def _predictor(self, units, stddev, name):
        return keras.layers.Dense(
            units,
            kernel_initializer=keras.initializers.RandomNormal(stddev=stddev),
            dtype="float32",
            name=name,
        )

    def build(self, input_shape):
        height, width, channels = input_shape[2:]
        size = channels if self.units is None else height * width * channels
        for layer in self.hidden:
            layer.build((None, size))
            size = self.units
        self.classifier.build((None, size))
        self.regressor.build((None, size))
        self.built = True

    def call(self, inputs):
        batch, regions, height, width, channels = ops.shape(inputs)
        # A matrix, not a batch of them: the weights' gradient is then one product.
        if self.units is None:
            x = ops.reshape(ops.mean(inputs, axis=(2, 3)), (batch * regions, channels))
        else:
            x = ops.reshape(inputs, (batch * regions, height * width * channels))
        for layer in self.hidden:
            x = layer(x)
        logits, deltas = self.classifier(x), self.regressor(x)
        columns = self.num_classes + 1
        return (
            ops.reshape(logits, (batch, regions, columns)),
            ops.reshape(deltas, (batch, regions, columns, 4)),
        )

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes, "units": self.units}
