"""Mask R-CNN: Faster R-CNN that draws a mask in each box."""

import keras
from keras import ops

from kvision.layers import MaskHead
from kvision.metrics import COCOMaskMetrics
from kvision.models.data_checks import check_instance_ids
from kvision.models.detection import FasterRCNN
from kvision.models.detection.faster_rcnn_arguments import (
    ARGUMENTS,
    COUNT,
    POSITIVE_INTEGER,
    check_values,
)
from kvision.models.instances.mask_losses import mask_loss, of_the_first
from kvision.ops import crop_masks

_ARGUMENTS = {
    "mask_roi_output_size": POSITIVE_INTEGER,
    "mask_head_filters": POSITIVE_INTEGER,
    "mask_head_convs": COUNT,
}
_MASKS = {"instance_ids", "mask_runs"}


@keras.saving.register_keras_serializable("kvision")
class MaskRCNN(FasterRCNN):
    """Faster R-CNN with a third head: a mask of each object, class by class.

    He, Gkioxari, Dollár, Girshick, "Mask R-CNN", ICCV 2017. The defaults are those of
    torchvision's `maskrcnn_resnet50_fpn`; with `fpn_filters=None` the mask head stands on the
    features of the backbone's last stage, as in the paper's C4 form, whose `mask_head_convs` is 0.

    A mask is a grid of `M x M` probabilities over its box: M is twice the side of what the mask
    head reads, so 28 with the defaults and 14 in the C4 form. `kvision.ops.paste_masks` puts masks
    into an image. To the raw outputs of `FasterRCNN` come, unless training, `detections` and
    `mask_logits (B, D, M, M)`: the masks are drawn in the boxes of the detections, not of the
    proposals, and only those of the detected classes.

    Targets are those of a detector and either `instance_ids (B, H, W, 1)` int32, a label map in
    which i + 1 is the object of row i of the boxes, or, for objects that overlap, `mask_runs
    (B, M, R)` int32: the objects' run lengths as COCO has them, padded with zeros; see
    `kvision.ops.crop_masks`. The loss of the mask head, `mask_loss`, is the binary cross-entropy
    of the mask of the true class alone, in the positive regions alone; what of the object lies
    outside of the region is not in it.

    Column 0 of the mask head is the background's, neither trained nor read, as in the box head.

    Args:
        backbone: See `FasterRCNN`.
        num_classes: See `FasterRCNN`.
        mask_roi_output_size: Bins along each side of a region that the mask head reads; without a
            pyramid it reads what the box head reads, and this is of no effect.
        mask_head_filters: Channels of the mask head.
        mask_head_convs: 3x3 convolutions of the mask head, before the one that enlarges.
        **kwargs: Arguments of `FasterRCNN`, and of `keras.Model`, such as `name` and `dtype`.

    Raises:
        ValueError: For an argument outside its range, or an image of unknown height or width.
    """

    task = "instances"
    loss_names = (*FasterRCNN.loss_names, "mask_loss")
    argument_rules = {**ARGUMENTS, **_ARGUMENTS}

    def __init__(
        self,
        backbone,
        num_classes,
        *,
        mask_roi_output_size=14,
        mask_head_filters=256,
        mask_head_convs=4,
        **kwargs,
    ):
        super().__init__(backbone, num_classes, **kwargs)
        self.mask_roi_output_size = mask_roi_output_size
        self.mask_head_filters = mask_head_filters
        self.mask_head_convs = mask_head_convs
        check_values(self, _ARGUMENTS)
        if self.rois_per_image * self.roi_positive_fraction < 1:
            raise ValueError(
                "MaskRCNN: `roi_positive_fraction` of `rois_per_image` must be a region or more. "
                f"Received: {self.roi_positive_fraction} of {self.rois_per_image}."
            )
        self.mask_head = MaskHead(
            self.num_classes + 1,
            filters=mask_head_filters,
            num_convs=mask_head_convs,
            dtype=self.dtype_policy,
            name="mask_head",
        )
        channels = self.fpn_filters or self.last_stage.output.shape[-1]
        self.mask_head.build((None, None, None, None, channels))

    def default_evaluator(self):
        return COCOMaskMetrics()

    def call(self, images, training=None):
        raw = super().call(images, training=training)
        if training:
            return raw
        raw["detections"] = super().decode(raw)
        raw["mask_logits"] = self.mask_outputs(raw["pyramid"], raw["detections"])
        return raw

    def mask_outputs(self, pyramid, detections):
        """Draws the masks of detections, as in evaluation.

        Args:
            pyramid: The pyramid that `call` returned.
            detections: Dictionary with `boxes (B, D, 4)`, `labels (B, D)` and `num_detections
                (B,)`.

        Returns:
            Logits `(B, D, M, M)`, float32, of each detection's own class. What stands in the slots
            of padding has no meaning.
        """
        boxes, columns = detections["boxes"], detections["labels"] + 1
        size = boxes.shape[1]

        def draw(count):
            regions = self._mask_regions(pyramid, boxes[:, :count])
            logits = self.mask_head(regions, columns[:, :count])
            return ops.pad(logits, ((0, 0), (0, size - count), (0, 0), (0, 0)))

        return of_the_first(ops.max(detections["num_detections"]), size, draw)

    def compute_region_losses(self, images, targets, raw, samples, features, training):
        if "instance_ids" in targets:
            check_instance_ids("MaskRCNN", targets["instance_ids"], images)
        losses = super().compute_region_losses(images, targets, raw, samples, features, training)

        def loss(count):
            boxes, rows = samples.boxes[:, :count], samples.matches[:, :count]
            if training and self.fpn_filters is None:
                regions = features[:, :count]
            else:
                regions = self._mask_regions(raw["pyramid"], boxes)
            logits = self.mask_head(regions, samples.labels[:, :count] + 1)
            expected = _crop(targets, boxes, rows, logits.shape[2], tuple(images.shape[1:3]))
            return mask_loss(logits, expected, samples.num_positive)

        most = ops.max(samples.num_positive)
        return {**losses, "mask_loss": of_the_first(most, samples.max_positive, loss)}

    def _mask_regions(self, pyramid, boxes):
        """What the mask head reads of given boxes, but for regions that the box head has read."""
        size = None if self.fpn_filters is None else self.mask_roi_output_size
        return self.region_features(pyramid, boxes, output_size=size)

    def decode(self, raw):
        """Returns the detections, in the pixels of the images given, and their masks.

        Args:
            raw: What `call` returned, without training.

        Returns:
            Dictionary of what `FasterRCNN.decode` returns and `masks (B, D, M, M)` float32: of
            each detection, the probabilities of its own class over its box, 0 where it is padding.
        """
        detections = raw["detections"]
        found = detections["labels"][:, :, None, None] >= 0
        return {**detections, "masks": ops.where(found, ops.sigmoid(raw["mask_logits"]), 0.0)}

    def _check_targets(self, targets):
        super()._check_targets(targets)
        if targets is not None and not _MASKS & set(targets):
            raise ValueError(
                "MaskRCNN: targets must hold `instance_ids` or `mask_runs`, as "
                "`kvision.data.to_fit` makes them of a batch dictionary with "
                f'`task="instances"`. Received: {sorted(targets)}.'
            )


def _crop(targets, boxes, rows, side, image_size):
    """What of the objects of the given rows lies in each box, `(B, P, side, side)`."""
    if "instance_ids" in targets:
        masks, image_size = targets["instance_ids"][..., 0], None
    else:
        masks = targets["mask_runs"]
    return crop_masks(masks, boxes, rows, output_size=side, image_size=image_size)
