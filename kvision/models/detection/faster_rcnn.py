"""Faster R-CNN, on a feature pyramid or on one map (C4)."""

import keras
import numpy as np
from keras import ops

from kvision.backbones.last_stage import split_last_stage
from kvision.boxes import gather_rows, pyramid_anchors
from kvision.layers import FPN, BoxHead, RPNHead
from kvision.losses import smooth_l1, squared_error
from kvision.models.detection.detector import Detector
from kvision.models.detection.faster_rcnn_arguments import (
    ARGUMENTS,
    check_arguments,
    pyramid_levels,
)
from kvision.models.detection.ground_truth import read_targets
from kvision.models.detection.region_detections import BOX_CODE_WEIGHTS, detect_regions
from kvision.models.detection.region_proposals import propose_regions
from kvision.models.detection.sampled_losses import anchor_losses, region_losses
from kvision.models.detection.training_samples import (
    ANCHOR_STREAM,
    REGION_STREAM,
    sample_boxes,
)
from kvision.ops import multiscale_roi_align


@keras.saving.register_keras_serializable("kvision")
class FasterRCNN(Detector):
    """Two-stage detector: a region proposal network, then a box head on what it proposes.

    Ren, He, Girshick, Sun, "Faster R-CNN", NIPS 2015, on the feature pyramid of Lin et al., CVPR
    2017. The defaults are those of torchvision's `fasterrcnn_resnet50_fpn`, and so are the
    numbers: anchors, codes, selection and suppression agree step by step.

    `fpn_filters=None` is the form of the first residual detectors (R-CNN "C4"): proposals and
    regions come from the backbone's last map but one, and the backbone's last stage runs on each
    pooled region, before the predictors of the box head. Detectron2's numbers for it are
    `anchor_sizes=((32, 64, 128, 256, 512),)`, `roi_output_size=14`, `roi_sampling_ratio=0`,
    `roi_aligned=True`, `rpn_pre_nms_top_n=6000` and `rpn_pre_nms_top_n_train=12000`.

    Images `(B, H, W, 3)` must have a static height and width, one for all batches of a data set:
    TensorFlow would retrace a step whose batches differ with an unknown size. Multiples of the
    coarsest stride keep anchors and features aligned. `call` gives a dictionary of

    - `pyramid`: `{"P2": (B, H/4, W/4, fpn_filters), ...}`, of `levels` and the subsampled ones, or
      `{"P4": (B, H/16, W/16, C)}`;
    - `rpn_logits (B, A)` and `rpn_deltas (B, A, 4)` of the anchors, level after level;
    - `proposals (B, R, 4)`, xyxy pixels by descending score, padded with 0, and
      `num_proposals (B,)`;
    - `image_size (B, 2)`, height and width in float32;
    - unless training, `class_logits (B, R, K + 1)` and `box_deltas (B, R, K + 1, 4)` of the
      proposals. Column 0 is the background; class c stands in column c + 1.

    The four losses of the paper are metrics of these names: `rpn_objectness_loss` (binary
    cross-entropy), `rpn_box_loss`, `class_loss` (cross-entropy over the classes and the
    background) and `box_loss`. In each image a sum over sampled anchors, or regions, is divided
    by their number; images are averaged. In training the box head sees proposals and ground-truth
    boxes that `compute_losses` samples; in evaluation, when nothing may depend on the ground
    truth but the loss, the losses are those of a sample of the proposals alone.

    Sampling is a function of `seed`, the model's own count of training steps (a weight, so it is
    saved), and the image: its `image_id`, else its ground-truth boxes. It does not depend on the
    backend, nor on the place in the batch. Boxes marked `is_crowd` or `difficult` are not learnt;
    anchors and regions inside them are left out, not taken for background. (torchvision drops
    such boxes, so that the regions become background.) A ground-truth box that no anchor overlaps
    makes no anchor positive; in torchvision it makes all of them so that overlap it by nothing.

    Args:
        backbone: Model or layer from images to a pyramid dictionary, with `feature_specs`. (Of a
            functional model, an attribute put on it; the detector's configuration holds it too.)
        num_classes: Number K of classes; labels run from 0 to K - 1, all of them real classes.
        class_names: See `Detector`.
        image_size: See `Detector`.
        resize_policy: See `Detector`.
        levels: Names of the backbone's levels that the pyramid is built on, finest first. `None`:
            those of a stride of 4 or more, as published; a VGG has two finer ones. Without a
            pyramid the backbone's last two count, whatever is named here.
        fpn_filters: Channels of the pyramid; `None` for no pyramid, see above.
        anchor_sizes: For each pyramid level, finest first, the square root of the anchors' area
            in pixels, or a sequence of such. Levels beyond `levels` are subsampled ones. Without
            a pyramid, one sequence.
        aspect_ratios: Heights over widths of the anchors.
        rpn_pre_nms_top_n: Anchors of each level that are decoded.
        rpn_pre_nms_top_n_train: The same, in training.
        rpn_post_nms_top_n: Proposals of each image.
        rpn_post_nms_top_n_train: The same, in training.
        rpn_nms_threshold: IoU above which proposals of one level are suppressed.
        rpn_min_side: Shortest side of a proposal, in pixels.
        rpn_positive_iou: IoU with a ground truth from which an anchor is positive. The best
            anchors of a ground truth are positive whatever their IoU.
        rpn_negative_iou: IoU below which an anchor is negative; between the two it is ignored.
        anchors_per_image: Anchors sampled for the losses.
        anchor_positive_fraction: Largest part of them that is positive.
        roi_output_size: Bins along each side of a pooled region, one positive integer.
        roi_sampling_ratio: See `kvision.ops.roi_align`.
        roi_aligned: See `kvision.ops.roi_align`. `True` is the more exact, `False` what
            torchvision's weights were trained with.
        box_head_units: Width of the box head's dense layers. Of no effect without a pyramid.
        roi_positive_iou: IoU with a ground truth from which a region is positive; below it is
            background.
        rois_per_image: Regions sampled for the losses.
        roi_positive_fraction: Largest part of them that is positive.
        crowd_overlap: Negative anchors and regions are left out if more than this part of their
            area lies in one crowd or difficult box.
        box_regression_loss: `"smooth_l1"`, the paper's, or `"l2"`: the sum of squared
            differences, as simplified accounts of the paper have it.
        smooth_l1_beta: Where smooth L1 turns from square to linear, of both stages.
        score_threshold: Detections score more than this, a number in [0, 1].
        nms_threshold: IoU above which detections of one class are suppressed.
        max_detections: Detections of each image, padding included.
        seed: Integer, of the sampling.
        **kwargs: Arguments of `keras.Model`, such as `name` and `dtype`.

    Raises:
        ValueError: For an argument outside its range, or an image of unknown height or width.
    """

    loss_names = ("rpn_objectness_loss", "rpn_box_loss", "class_loss", "box_loss")
    argument_rules = ARGUMENTS

    def __init__(
        self,
        backbone,
        num_classes,
        *,
        class_names=None,
        image_size=None,
        resize_policy="letterbox",
        levels=None,
        fpn_filters=256,
        anchor_sizes=(32, 64, 128, 256, 512),
        aspect_ratios=(0.5, 1.0, 2.0),
        rpn_pre_nms_top_n=1000,
        rpn_pre_nms_top_n_train=2000,
        rpn_post_nms_top_n=1000,
        rpn_post_nms_top_n_train=2000,
        rpn_nms_threshold=0.7,
        rpn_min_side=1e-3,
        rpn_positive_iou=0.7,
        rpn_negative_iou=0.3,
        anchors_per_image=256,
        anchor_positive_fraction=0.5,
        roi_output_size=7,
        roi_sampling_ratio=2,
        roi_aligned=False,
        box_head_units=1024,
        roi_positive_iou=0.5,
        rois_per_image=512,
        roi_positive_fraction=0.25,
        crowd_overlap=0.7,
        box_regression_loss="smooth_l1",
        smooth_l1_beta=1 / 9,
        score_threshold=0.05,
        nms_threshold=0.5,
        max_detections=100,
        seed=0,
        **kwargs,
    ):
        super().__init__(
            num_classes=num_classes,
            class_names=class_names,
            image_size=image_size,
            resize_policy=resize_policy,
            **kwargs,
        )
        self.backbone = backbone
        self.levels = pyramid_levels(self, levels)
        self.fpn_filters = fpn_filters
        self.anchor_sizes = tuple(
            (float(sizes),) if np.ndim(sizes) == 0 else tuple(float(size) for size in sizes)
            for sizes in anchor_sizes
        )
        self.aspect_ratios = tuple(float(ratio) for ratio in aspect_ratios)
        self.rpn_pre_nms_top_n = rpn_pre_nms_top_n
        self.rpn_pre_nms_top_n_train = rpn_pre_nms_top_n_train
        self.rpn_post_nms_top_n = rpn_post_nms_top_n
        self.rpn_post_nms_top_n_train = rpn_post_nms_top_n_train
        self.rpn_nms_threshold = rpn_nms_threshold
        self.rpn_min_side = rpn_min_side
        self.rpn_positive_iou = rpn_positive_iou
        self.rpn_negative_iou = rpn_negative_iou
        self.anchors_per_image = anchors_per_image
        self.anchor_positive_fraction = anchor_positive_fraction
        self.roi_output_size = roi_output_size
        self.roi_sampling_ratio = roi_sampling_ratio
        self.roi_aligned = roi_aligned
        self.box_head_units = box_head_units
        self.roi_positive_iou = roi_positive_iou
        self.rois_per_image = rois_per_image
        self.roi_positive_fraction = roi_positive_fraction
        self.crowd_overlap = crowd_overlap
        self.box_regression_loss = box_regression_loss
        self.smooth_l1_beta = smooth_l1_beta
        self.score_threshold = score_threshold
        self.nms_threshold = nms_threshold
        self.max_detections = max_detections
        self.seed = seed
        check_arguments(self)
        self._build_layers()

    def _build_layers(self):
        specs, side = self.region_specs, self.roi_output_size
        if not self.backbone.built:
            self.backbone.build((None, None, None, 3))
        if self.fpn_filters is None:
            self.trunk, self.last_stage = split_last_stage(self.backbone)
            levels = list(specs)
            channels = specs[levels[0]].channels
            regions_shape = (None, None, None, None, self.last_stage.output.shape[-1])
        else:
            self.fpn = FPN(
                specs,
                filters=self.fpn_filters,
                num_extra_levels=len(self.anchor_sizes) - len(specs),
                dtype=self.dtype_policy,
                name="fpn",
            )
            self.fpn.build(
                {name: (None, None, None, spec.channels) for name, spec in specs.items()}
            )
            levels, channels = list(self.fpn.feature_specs), self.fpn_filters
            regions_shape = (None, None, side, side, channels)
        self.rpn_head = RPNHead(
            len(self.anchor_sizes[0]) * len(self.aspect_ratios),
            filters=channels,
            dtype=self.dtype_policy,
            name="rpn_head",
        )
        self.rpn_head.build({name: (None, None, None, channels) for name in levels})
        self.box_head = BoxHead(
            self.num_classes,
            units=None if self.fpn_filters is None else self.box_head_units,
            dtype=self.dtype_policy,
            name="box_head",
        )
        self.box_head.build(regions_shape)
        self.iteration = self.add_weight(
            name="iteration",
            shape=(),
            dtype="int32",
            initializer="zeros",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
        )
        self.built = True

    @property
    def region_specs(self):
        """`FeatureSpec` of every level that regions are pooled from, finest first."""
        specs = self.backbone.feature_specs
        names = list(specs)[-2:-1] if self.fpn_filters is None else self.levels
        return {name: specs[name] for name in names}

    def call(self, images, training=None):
        image_size = _static_size(images)
        if self.fpn_filters is None:
            pyramid = self.trunk(images, training=training)
        else:
            features = self.backbone(images, training=training)
            pyramid = self.fpn({name: features[name] for name in self.levels})
        logits, deltas = self.rpn_head(pyramid)
        suffix = "_train" if training else ""
        proposals, num_proposals = propose_regions(
            logits,
            deltas,
            self._anchors(pyramid, image_size),
            image_size,
            pre_nms_size=getattr(self, f"rpn_pre_nms_top_n{suffix}"),
            post_nms_size=getattr(self, f"rpn_post_nms_top_n{suffix}"),
            nms_threshold=self.rpn_nms_threshold,
            min_side=self.rpn_min_side,
        )
        raw = {
            "pyramid": pyramid,
            "rpn_logits": logits,
            "rpn_deltas": deltas,
            "proposals": proposals,
            "num_proposals": num_proposals,
            "image_size": ops.broadcast_to(
                ops.convert_to_tensor(image_size, "float32"), (ops.shape(images)[0], 2)
            ),
        }
        if not training:
            raw["class_logits"], raw["box_deltas"] = self.box_outputs(pyramid, proposals)
        return raw

    def box_outputs(self, pyramid, proposals):
        """Runs the second stage on given regions, as in evaluation.

        Args:
            pyramid: The pyramid that `call` returned.
            proposals: Float tensor `(B, R, 4)`, xyxy pixels.

        Returns:
            `(class_logits (B, R, K + 1), box_deltas (B, R, K + 1, 4))`, float32, the background
            in column 0.
        """
        return self.box_head(self.region_features(pyramid, proposals))

    def region_features(self, pyramid, regions, *, output_size=None, training=False):
        """Pools given regions and, without a pyramid, runs the backbone's last stage on each.

        Args:
            pyramid: The pyramid that `call` returned.
            regions: Float tensor `(B, R, 4)`, xyxy pixels.
            output_size: Bins along each side of a pooled region; `roi_output_size` by default.
            training: Whether this is a training step.

        Returns:
            `(B, R, h, w, C)`, what the heads read.
        """
        specs = self.region_specs
        pooled = multiscale_roi_align(
            {name: pyramid[name] for name in specs},
            regions,
            output_size=output_size or self.roi_output_size,
            strides={name: spec.stride for name, spec in specs.items()},
            sampling_ratio=self.roi_sampling_ratio,
            aligned=self.roi_aligned,
        )
        if self.fpn_filters is not None:
            return pooled
        batch, count, *maps = ops.shape(pooled)
        features = self.last_stage(ops.reshape(pooled, (batch * count, *maps)), training=training)
        return ops.reshape(features, (batch, count, *ops.shape(features)[1:]))

    def compute_losses(self, images, targets, raw, training):
        """Returns the four losses. In training, counts the step.

        Args:
            images: `(B, H, W, 3)`.
            targets: Dictionary with `boxes (B, M, 4)`, `labels (B, M)` and, where known,
                `is_crowd (B, M)`, `difficult (B, M)`, `image_id (B,)`.
            raw: What `call` returned for the images.
            training: Whether this is a training step.

        Returns:
            Dictionary of scalars, see `loss_names`.
        """
        ground_truth = read_targets(targets)
        step = ops.zeros((), "int32")
        if training:
            # First counted, then read: a tensor of a variable follows it on TensorFlow and PyTorch.
            self.iteration.assign_add(1)
            step = ops.convert_to_tensor(self.iteration)
        anchors = self._anchors(raw["pyramid"], _static_size(images))
        losses = self._anchor_losses(np.concatenate(anchors), ground_truth, raw, step, training)
        samples, features = self._sampled_regions(ground_truth, raw, step, training)
        regions = self.compute_region_losses(images, targets, raw, samples, features, training)
        return {**losses, **regions}

    def _anchor_losses(self, anchors, ground_truth, raw, step, training):
        samples = self.sample_anchors(anchors, ground_truth, step)
        if training:
            logits, deltas = self.rpn_head.outputs_at(raw["pyramid"], samples.indices)
        else:
            logits = gather_rows(raw["rpn_logits"], samples.indices)
            deltas = gather_rows(raw["rpn_deltas"], samples.indices)
        return anchor_losses(logits, deltas, samples, self._box_loss)

    def _sampled_regions(self, ground_truth, raw, step, training):
        proposals, num_proposals = raw["proposals"], raw["num_proposals"]
        size = proposals.shape[1]
        available = ops.arange(size, dtype="int32")[None, :] < num_proposals[:, None]
        if training:
            proposals = ops.concatenate([proposals, ground_truth.boxes], axis=1)
            available = ops.concatenate([available, ground_truth.valid], axis=1)
        samples = self.sample_regions(proposals, available, ground_truth, step)
        if not training:
            return samples, None
        return samples, self.region_features(raw["pyramid"], samples.boxes, training=True)

    def compute_region_losses(self, images, targets, raw, samples, features, training):
        """Returns the losses of the heads on sampled regions; a model with more heads adds its own.

        Args:
            images: See `compute_losses`.
            targets: See `compute_losses`.
            raw: See `compute_losses`.
            samples: `Samples` of regions.
            features: In training, what `region_features` gives of them; else `None`: the regions
                are proposals then, of which `raw` holds the outputs.
            training: See `compute_losses`.

        Returns:
            Dictionary of scalars.
        """
        del images, targets
        if training:
            logits, deltas = self.box_head(features)
        else:
            logits = gather_rows(raw["class_logits"], samples.indices)
            deltas = gather_rows(raw["box_deltas"], samples.indices)
        return region_losses(logits, deltas, samples, self._box_loss)

    def sample_anchors(self, anchors, ground_truth, step):
        """Chooses the anchors that the losses look at.

        Args:
            anchors: Array `(A, 4)`, xyxy pixels.
            ground_truth: A `GroundTruth`.
            step: Int32 scalar tensor, the number of the training step from 1; 0 in evaluation.

        Returns:
            `Samples`.
        """
        return sample_boxes(
            anchors,
            ground_truth,
            seed=self.seed,
            step=step,
            stream=ANCHOR_STREAM,
            num_samples=self.anchors_per_image,
            positive_fraction=self.anchor_positive_fraction,
            positive_threshold=self.rpn_positive_iou,
            negative_threshold=self.rpn_negative_iou,
            allow_low_quality=True,
            crowd_overlap=self.crowd_overlap,
        )

    def sample_regions(self, regions, available, ground_truth, step):
        """Chooses the regions that the losses look at.

        Args:
            regions: Float tensor `(B, N, 4)`, xyxy pixels: proposals and, in training, the ground
                truth.
            available: Bool tensor `(B, N)`, false for padding.
            ground_truth: A `GroundTruth`.
            step: Int32 scalar tensor, the number of the training step from 1; 0 in evaluation.

        Returns:
            `Samples`.
        """
        return sample_boxes(
            regions,
            ground_truth,
            available=available,
            seed=self.seed,
            step=step,
            stream=REGION_STREAM,
            num_samples=self.rois_per_image,
            positive_fraction=self.roi_positive_fraction,
            positive_threshold=self.roi_positive_iou,
            negative_threshold=self.roi_positive_iou,
            code_weights=BOX_CODE_WEIGHTS,
            crowd_overlap=self.crowd_overlap,
        )

    def _box_loss(self, targets, deltas):
        if self.box_regression_loss == "l2":
            return squared_error(targets, deltas)
        return smooth_l1(targets, deltas, self.smooth_l1_beta)

    def decode(self, raw):
        """Returns the detections, in the pixels of the images given.

        Args:
            raw: What `call` returned, without training.

        Returns:
            Dictionary of `boxes (B, D, 4)` float32 xyxy, `scores (B, D)` float32, `labels (B, D)`
            int32 padded with -1, and `num_detections (B,)` int32; D is `max_detections`.
        """
        return detect_regions(
            raw["class_logits"],
            raw["box_deltas"],
            raw["proposals"],
            raw["num_proposals"],
            raw["image_size"],
            score_threshold=self.score_threshold,
            nms_threshold=self.nms_threshold,
            max_detections=self.max_detections,
        )

    def _anchors(self, pyramid, image_size):
        sizes = tuple(tuple(features.shape[1:3]) for features in pyramid.values())
        return pyramid_anchors(image_size, sizes, self.anchor_sizes, self.aspect_ratios)

    def get_config(self):
        arguments = {name: getattr(self, name) for name in self.argument_rules}
        return {**super().get_config(), "levels": list(self.levels), **arguments}


def _static_size(images):
    """Height and width of a batch of images, as integers."""
    height, width = images.shape[1:3]
    if height is None or width is None:
        raise ValueError(
            "FasterRCNN and MaskRCNN: images must have a static height and width, because the "
            f"number of anchors follows from them. Received: shape {tuple(images.shape)}. After "
            "images of other sizes `predict` makes one graph for all: resize them to one size, or "
            "call `model.decode(model(images, training=False))`."
        )
    return int(height), int(width)
