"""One training step of Faster R-CNN or Mask R-CNN, ResNet-50-FPN, against torchvision's.

Both sides start from the same weights (tests/golden/seeded_weights.py) and get the same images,
boxes, masks and settings. A variant is the model and the normalisation of its backbone, frozen or
trained. A step is forward pass, losses, gradients and an SGD step with momentum. Each side reports
how many proposals, RoIs and, of these, positive ones an image it really had.

    python benchmarks/train_step.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

import json
import sys
from pathlib import Path
from unittest import mock

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks._steps import THREADS, main  # noqa: E402
from tests.golden.seeded_weights import seeded_state_dict  # noqa: E402

IMAGES, SIDE, BOXES, CLASSES = 2, 320, 8, 90
VARIANTS = ("frozen_batch", "batch", "mask_rcnn")
RPN_NMS_THRESHOLD = 0.9  # At it 2,000 proposals of random weights survive.
LEARNING_RATE, MOMENTUM = 1e-4, 0.9


def batch():
    """Images `(B, H, W, 3)` 0..255, boxes `(B, M, 4)` xyxy pixels, labels `(B, M)` from 0, ids.

    The ids are a label map `(B, H, W)` of ellipses in the boxes, later ones over earlier.
    """
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (IMAGES, SIDE // 8, SIDE // 8, 3))
    images = coarse.repeat(8, axis=1).repeat(8, axis=2) + rng.normal(0, 8, (IMAGES, SIDE, SIDE, 3))
    sides = rng.uniform(24, 120, (IMAGES, BOXES, 2))
    corners = rng.uniform(0, 1, (IMAGES, BOXES, 2)) * (SIDE - sides)
    boxes = np.concatenate([corners, corners + sides], axis=-1)
    labels = rng.integers(0, CLASSES, (IMAGES, BOXES))
    ids = np.zeros((IMAGES, SIDE, SIDE), "int32")
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    for image, row in np.ndindex(IMAGES, BOXES):
        x1, y1, x2, y2 = boxes[image, row]
        inside = ((2 * x - x1 - x2) / (x2 - x1)) ** 2 + ((2 * y - y1 - y2) / (y2 - y1)) ** 2 < 1
        ids[image][inside] = row + 1
    images = images.clip(0, 255).astype("float32")
    return images, boxes.astype("float32"), labels.astype("int32"), ids


def state_dict(variant):
    """The weights of both sides, by torchvision's names."""
    name = "maskrcnn.npz" if variant == "mask_rcnn" else "fasterrcnn.npz"
    with np.load(ROOT / "tests" / "golden" / name) as golden:
        return seeded_state_dict(json.loads(str(golden["shapes"])))


def kvision_step(variant):
    """Returns a function that takes one step, and the counts of an image."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    from kvision.backbones import ResNet50
    from kvision.models.detection import FasterRCNN, faster_rcnn
    from kvision.models.instances import MaskRCNN
    from kvision.ops import native
    from kvision.weights import load_torchvision

    normalization = "batch" if variant == "batch" else "frozen_batch"
    backbone = ResNet50(version="v1.5", normalization=normalization)
    system = MaskRCNN if variant == "mask_rcnn" else FasterRCNN
    model = system(backbone, CLASSES, rpn_nms_threshold=RPN_NMS_THRESHOLD)
    load_torchvision(model, state_dict(variant))
    model.compile(keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM))
    images, boxes, labels, ids = batch()
    targets = {"boxes": boxes, "labels": labels, "instance_ids": ids[..., None]}

    samples = []
    sample_boxes = faster_rcnn.sample_boxes

    def recording(*args, **kwargs):
        samples.append(sample_boxes(*args, **kwargs))
        return samples[-1]

    with mock.patch.object(faster_rcnn, "sample_boxes", recording):
        raw = model(images, training=True)
        model.compute_losses(images, targets, raw, training=True)
    counts = {
        "proposals": raw["num_proposals"].numpy().tolist(),
        "rois": samples[-1].num_sampled.numpy().tolist(),
        "positive": samples[-1].num_positive.numpy().tolist(),
        "ops": "native" if native.use_native() else "reference",
    }
    return lambda: float(model.train_on_batch(images, targets, return_dict=True)["loss"]), counts


def torchvision_step(variant):
    """Returns a function that takes one step, and the counts of an image."""
    import torch
    from torchvision.models import resnet50
    from torchvision.models.detection import FasterRCNN, MaskRCNN
    from torchvision.models.detection.backbone_utils import _resnet_fpn_extractor
    from torchvision.ops import FrozenBatchNorm2d

    torch.set_num_threads(THREADS)
    norm = torch.nn.BatchNorm2d if variant == "batch" else FrozenBatchNorm2d
    body = resnet50(norm_layer=norm)
    system = MaskRCNN if variant == "mask_rcnn" else FasterRCNN
    model = system(
        _resnet_fpn_extractor(body, 5),
        CLASSES + 1,
        min_size=SIDE,
        max_size=SIDE,
        rpn_nms_thresh=RPN_NMS_THRESHOLD,
    )
    arrays = {name: torch.from_numpy(array) for name, array in state_dict(variant).items()}
    model.load_state_dict(arrays, strict=False)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(parameters, LEARNING_RATE, momentum=MOMENTUM)
    images, boxes, labels, ids = batch()
    inputs = [torch.from_numpy(image).permute(2, 0, 1).contiguous() / 255 for image in images]
    targets = [
        {
            "boxes": torch.from_numpy(b),
            "labels": torch.from_numpy(k).long() + 1,
            "masks": torch.from_numpy(i == np.arange(1, BOXES + 1)[:, None, None]).byte(),
        }
        for b, k, i in zip(boxes, labels, ids, strict=True)
    ]
    counts = {}

    def record(name, method):
        def recording(*args):
            result = method(*args)
            counts[name] = [len(each) for each in result[0]]
            return result

        return recording

    model.rpn.filter_proposals = record("proposals", model.rpn.filter_proposals)
    heads = model.roi_heads
    heads.select_training_samples = record("rois", heads.select_training_samples)
    select = heads.select_training_samples

    def select_and_count(*args):
        result = select(*args)
        counts["positive"] = [int((labels > 0).sum()) for labels in result[2]]
        return result

    heads.select_training_samples = select_and_count
    model.train()

    def step():
        optimizer.zero_grad()
        loss = sum(model(inputs, targets).values())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step, counts


if __name__ == "__main__":
    main(
        __doc__,
        {"kvision": kvision_step, "torchvision": torchvision_step},
        VARIANTS,
    )
