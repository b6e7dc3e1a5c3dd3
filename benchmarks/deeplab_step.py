"""One training step of DeepLab v3 ResNet-50, against torchvision's and KerasHub's.

Two images of 257 x 257 pixels, 21 classes, output stride 8, batch normalisation trained. kvision
and torchvision start from the same weights (tests/golden/seeded_weights.py) and have the same
layers; KerasHub has those of its own. torchvision is compared as it comes, channels first, and in
the faster of its memory formats; the others are channels last in both. A step is forward pass,
cross-entropy of the pixels at the size of the images, gradients and an SGD step with momentum.

    python benchmarks/deeplab_step.py --torchvision PYTHON [--keras_hub PYTHON]
"""

import json
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._steps import THREADS, main  # noqa: E402
from tests.golden.seeded_weights import seeded_state_dict  # noqa: E402

IMAGES, SIDE, CLASSES = 2, 257, 21
LEARNING_RATE, MOMENTUM = 1e-4, 0.9


def batch():
    """Images `(B, H, W, 3)` 0..255 and labels `(B, H, W)`, one in ten of them 255."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (IMAGES, SIDE, SIDE, 3)).astype("float32")
    labels = rng.integers(0, CLASSES, (IMAGES, SIDE, SIDE))
    labels[rng.random(labels.shape) < 0.1] = 255
    return images, labels.astype("int32")


def state_dict():
    """The weights of kvision and torchvision, by the latter's names."""
    with np.load(ROOT / "tests" / "golden" / "deeplab.npz") as golden:
        return seeded_state_dict(json.loads(str(golden["deeplabv3_resnet50/shapes"])))


def _tensorflow():
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)


def kvision_step(_):
    """Returns a function that takes one step, and which implementation of the ops runs."""
    _tensorflow()
    import keras

    import kvision
    from kvision.weights import load_torchvision

    backbone = kvision.backbones.ResNet50(version="v1.5", output_stride=8)
    model = kvision.models.segmentation.DeepLabV3(backbone, CLASSES, head_filters=256, dropout=0.5)
    load_torchvision(model, state_dict())
    model.compile(keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM), metrics=[])
    images, labels = batch()
    notes = {"ops": kvision.ops.implementation_of("atrous_pyramid_pooling")}
    return lambda: float(model.train_on_batch(images, labels)), notes


def torchvision_step(memory_format):
    """Returns a function that takes one step; channels first is how torchvision comes."""
    import torch
    import torchvision
    from torch.nn import functional

    torch.set_num_threads(THREADS)
    model = torchvision.models.segmentation.deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=False
    )
    arrays = {name: torch.from_numpy(array) for name, array in state_dict().items()}
    model.load_state_dict(arrays, strict=False)
    if memory_format == "channels last":
        model = model.to(memory_format=torch.channels_last)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=MOMENTUM)
    images, labels = batch()
    mean = np.array([0.485, 0.456, 0.406], "float32") * 255
    stddev = np.array([0.229, 0.224, 0.225], "float32") * 255
    x = torch.from_numpy((images - mean) / stddev).permute(0, 3, 1, 2)
    y = torch.from_numpy(labels).long()

    def step():
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(x)["out"], y, ignore_index=255)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, {}


def keras_hub_step(_):
    """Returns a function that takes one step."""
    _tensorflow()
    import keras
    import keras_hub

    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128, 256, 512],
        stackwise_num_blocks=[3, 4, 6, 3],
        stackwise_num_strides=[1, 2, 1, 1],
        stackwise_dilations=[1, 1, 2, 4],
        block_type="bottleneck_block",
        use_pre_activation=False,
        image_shape=(SIDE, SIDE, 3),
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        image_encoder=encoder,
        spatial_pyramid_pooling_key="P5",
        upsampling_size=8,
        dilation_rates=[12, 24, 36],
        image_shape=(SIDE, SIDE, 3),
    )
    # The logits of 264 x 264 pixels are cut to the images; KerasHub has no other way.
    logits = keras.layers.Conv2D(CLASSES, 1)(backbone.output)[:, :SIDE, :SIDE]
    model = keras.Model(backbone.input, logits)
    model.compile(
        keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255),
    )
    images, labels = batch()
    notes = {"parameters": model.count_params()}
    return lambda: float(model.train_on_batch(images / 255, labels)), notes


if __name__ == "__main__":
    main(
        __doc__,
        {"kvision": kvision_step, "torchvision": torchvision_step, "keras_hub": keras_hub_step},
        ("channels first", "channels last"),
    )
