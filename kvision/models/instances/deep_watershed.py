"""The deep watershed transform (Bai and Urtasun, CVPR 2017)."""

import keras
import numpy as np
from keras import ops

from kvision.backbones.pixels import normalize_pixels as normalized
from kvision.losses import direction_loss, watershed_energy_loss
from kvision.losses.watershed_losses import unit_vectors
from kvision.metrics import ObjectMetrics
from kvision.models.data_checks import check_instance_ids, check_labels
from kvision.models.detection.detector import Detector
from kvision.models.instances.deep_watershed_arguments import (
    ARGUMENTS,
    check_arguments,
    refuse,
)
from kvision.models.instances.watershed_networks import (
    direction_network,
    energy_network,
    on_whole_cells,
)
from kvision.ops import DWT_EDGES, watershed_instances, watershed_targets


@keras.saving.register_keras_serializable("kvision")
class DeepWatershed(Detector):
    """Two networks: from the image to directions, from these to an energy that is cut.

    The *direction network*, of VGG-16 with the last two poolings averages, gives each pixel the
    unit vector that points away from the border of its object. Along a border where two objects
    touch the vectors are opposed. The *energy network* turns them into levels of the distance to
    the border, which mean the same for objects of every size. What lies deeper than the level `cut`
    falls into separate pieces; these are labelled, and grown back by `grow` pixels.

    A *gate* says where objects are, and of which class:

    - `gate="external"`, as published: another network's semantic map is a fourth channel of the
      images, `(B, H, W, 4)`: 0 for background, k + 1 for class k. The pixels of the background are
      blanked, and the map, coded by `semantic_codes`, is the fourth channel of the network.
    - `gate="head"`: the direction network has a semantic head of its own, with the mean
      cross-entropy of the pixels as its loss.
    - `gate=None`, of one class: no gate. Pixels of the background weigh `background_weight` in the
      energy's loss, by which they learn the level 0.

    The energy network is given directions of 0 outside of the gate, and its energy is 0 there; so
    the level is 0, too.

    Training has three `stages`; `stage` says which one the next `compile` and `fit` are of, and
    `kvision.training.fit_stages` runs them one after the other:

    - `"direction"`: the direction network alone, by `direction_loss` and `semantic_loss`;
    - `"watershed"`: the energy network alone, from the true directions, by `watershed_loss`;
    - `"both"`: both networks, by `watershed_loss` and `semantic_loss`, and by `direction_weight`
      times the direction loss, 0 as published.

    Published are Adam with 1e-5, batches of 4 and a weight decay of 1e-5; 5e-4, 6 and 1e-6; 5e-6, 3
    and 1e-6. While one network is trained alone, the true map is the gate of what it learns; both
    together are trained as they are served, with the head's. In evaluation every loss is that of
    what the model gives for its own directions and its own gate.

    `fit` and `evaluate` take images `(B, H, W, 3)` of 0..255, or of four channels, and targets
    `{"instance_ids": (B, H, W) or (B, H, W, 1)}`. Of several classes there must be `semantic`, of
    the same shape, 0 for background and k + 1 for class k (other values are pixels without truth),
    or the instances' `labels (B, M)`: row i - 1 is of id i. All targets are computed in the step,
    from the ids as augmentation leaves them, so that a mirrored image has mirrored directions:
    there is no vector that a flip could forget to turn.

    `call` gives `direction (B, H, W, 2)`, unit vectors x and y; `semantic`, the head's logits `(B,
    H, W, K + 1)` or the external map `(B, H, W)`; and the energy's logits `energy (B, H, W,
    levels)`, all float32; in training what the stage needs of them. `decode` and `predict` give
    `instance_ids (B, H, W)` int32, 0 for background and 1..n, and of the instances `labels (B,
    max_instances)` int32, -1 as padding, and `scores` float32, the mean probability of the class
    over the instance's pixels by the head, else 1 (the published code has no score): row i - 1 is
    of id i.

    Args:
        num_classes: Number K of classes, background not among them.
        gate: `"head"`, `"external"` or `None`.
        stage: `"direction"`, `"watershed"` or `"both"`.
        level_edges: Lower edges of the energy levels in pixels, increasing; the first is 0, the
            last level is open. The default is for street scenes; `choose_level_edges` takes them
            from the training data.
        level_weights: Weights of the levels in the energy's loss, see `watershed_energy_loss`.
        energy_loss: Its form: `"binary"`, as published, or `"cross_entropy"`.
        include_ridge: Whether pixels without direction count in the direction's loss, as published.
        direction_weight: Weight of the direction's loss in the stage `"both"`.
        semantic_weight: Weight of the head's loss.
        background_weight: Weight of the pixels of the background without a gate; those of an object
            of n pixels have 200 / sqrt(n).
        image_border_is_outside: As in `kvision.ops.watershed_targets`.
        target_min_area: Pixels of the smallest objects that are learnt; 100 as published.
        depths: Number of convolutions of the five stages of the direction network.
        widths: Their channels.
        strides: Of the poolings after the first four of them: 1, for none, or 2. Published are four
            2; small objects need finer maps.
        branch_filters: Channels in which the stages 3, 4 and 5 are joined.
        fuse_filters: Channels of the two layers after that, and of the head's.
        energy_widths: Channels of the 5x5 convolutions of the energy network, in blocks. After each
            follows an average pooling.
        energy_strides: Strides of these poolings, 1 or 2.
        energy_filters: Channels of the 1x1 convolution after them.
        normalization: `None` as published, or `"batch"` for batch normalisation after every
            convolution that has a ReLU.
        dropout: Rate in [0, 1) after the energy network's two 1x1 convolutions.
        semantic_codes: Number for each class, by which an external map is coded. `None`: K numbers
            from -128 to 128 in equal steps, without 0.
        normalize_pixels: `"caffe"` as published, `"imagenet"` or `"inception"`, see
            `kvision.backbones.VGG`.
        cut: Level above which a pixel is kept, or one for each class.
        min_area: Pixels of the smallest piece that is kept, or one for each class.
        grow: Pixels by which pieces are grown, or one for each class. Published are 1 of a cut at 1
            and 2 of a cut at 2.
        fill_holes: Holes of fewer pixels in a piece are filled.
        grow_within_gate: Whether pieces grow within the gate alone; not so as published.
        max_instances: The most instances of an image.
        **kwargs: Arguments of `kvision.models.ImageModel`: `class_names`, `image_size`,
            `resize_policy`, `name`, `dtype`.

    Raises:
        ValueError: For an argument out of its range.
    """

    task = "instances"
    stages = ("direction", "watershed", "both")
    loss_names = ("direction_loss", "semantic_loss", "watershed_loss")

    def __init__(
        self,
        num_classes=1,
        *,
        gate="head",
        stage="both",
        level_edges=DWT_EDGES,
        level_weights=None,
        energy_loss="binary",
        include_ridge=False,
        direction_weight=0.0,
        semantic_weight=1.0,
        background_weight=1.0,
        image_border_is_outside=False,
        target_min_area=0,
        depths=(2, 2, 3, 3, 3),
        widths=(64, 128, 256, 512, 512),
        strides=(2, 2, 2, 2),
        branch_filters=256,
        fuse_filters=512,
        energy_widths=((64, 128), (128, 128, 128, 128)),
        energy_strides=(2, 2),
        energy_filters=128,
        normalization=None,
        dropout=0.3,
        semantic_codes=None,
        normalize_pixels="caffe",
        cut=1,
        min_area=20,
        grow=1,
        fill_holes=64,
        grow_within_gate=False,
        max_instances=1000,
        **kwargs,
    ):
        super().__init__(num_classes=num_classes, **kwargs)
        self.gate = gate
        self.level_edges = tuple(float(edge) for edge in level_edges)
        self.level_weights = _as_tuple(level_weights)
        self.energy_loss = energy_loss
        self.include_ridge = include_ridge
        self.direction_weight = direction_weight
        self.semantic_weight = semantic_weight
        self.background_weight = background_weight
        self.image_border_is_outside = image_border_is_outside
        self.target_min_area = target_min_area
        self.depths = tuple(depths)
        self.widths = tuple(widths)
        self.strides = tuple(strides)
        self.branch_filters = branch_filters
        self.fuse_filters = fuse_filters
        self.energy_widths = tuple(tuple(block) for block in energy_widths)
        self.energy_strides = tuple(energy_strides)
        self.energy_filters = energy_filters
        self.normalization = normalization
        self.dropout = dropout
        self.semantic_codes = _as_tuple(semantic_codes)
        self.normalize_pixels = normalize_pixels
        self.cut = _as_tuple(cut)
        self.min_area = _as_tuple(min_area)
        self.grow = _as_tuple(grow)
        self.fill_holes = fill_holes
        self.grow_within_gate = grow_within_gate
        self.max_instances = max_instances
        check_arguments(self)
        if gate == "external":
            self.image_channels = 4
            if semantic_codes is None:
                semantic_codes = _even_codes(num_classes)
            # The background has 0; as published, it is blanked with the image.
            self._codes = np.array([0, *semantic_codes], "float32")

        self.direction_network = direction_network(self)
        self.energy_network = energy_network(self)
        self.stage = stage
        self.built = True

    @property
    def stage(self):
        """What the next `compile` and `fit` train, one of `stages`."""
        return self._stage

    @stage.setter
    def stage(self, stage):
        if stage not in self.stages:
            refuse(self, "stage", f"one of {self.stages}", stage)
        self._stage = stage
        self.direction_network.trainable = stage != "watershed"
        self.energy_network.trainable = stage != "direction"

    @property
    def metrics(self):
        """The metrics that are reported, of the losses those of the stage alone."""
        learnt = self._learnt_losses()
        return [
            metric
            for metric in super().metrics
            if metric.name in learnt or not any(metric is one for one in self.loss_trackers)
        ]

    def _learnt_losses(self):
        of_directions = {"direction_loss"} if self._has_direction_loss() else set()
        of_head = {"semantic_loss"} if self.gate == "head" and self.stage != "watershed" else set()
        of_energy = {"watershed_loss"} if self.stage != "direction" else set()
        return of_directions | of_head | of_energy

    def _has_direction_loss(self):
        return self.stage == "direction" or (self.stage == "both" and self.direction_weight > 0)

    def call(self, images, training=None):
        raw = {}
        pixels = normalized(images[..., :3], self.normalize_pixels)
        if self.gate == "external":
            semantic = self._semantic_map(images[..., 3])
            raw["semantic"] = semantic
            codes = ops.take(ops.convert_to_tensor(self._codes), semantic)[..., None]
            pixels = pixels * ops.cast(semantic > 0, "float32")[..., None]
            pixels = ops.concatenate([pixels, codes], axis=-1)
        if training and self.stage == "watershed":
            return raw
        outputs = on_whole_cells(
            self.direction_network, pixels, int(np.prod(self.strides)), training
        )
        raw |= {name: ops.cast(values, "float32") for name, values in outputs.items()}
        raw["direction"] = unit_vectors(raw["direction"])
        if self.stage == "both" or not training:
            gate = None if self.gate is None else self._semantic_of(raw) > 0
            raw["energy"] = self.energy_logits(raw["direction"], gate, training)
        return raw

    def energy_logits(self, directions, gate=None, training=None):
        """Runs the energy network.

        Args:
            directions: Float tensor `(B, H, W, 2)`, unit vectors.
            gate: Bool tensor `(B, H, W)`, where objects are; or `None`.
            training: Whether dropout acts.

        Returns:
            Logits of the levels, float32 `(B, H, W, levels)`, 0 outside of the gate.
        """
        factor = 1.0 if gate is None else ops.cast(gate, "float32")[..., None]
        stride = int(np.prod(self.energy_strides))
        logits = on_whole_cells(self.energy_network, directions * factor, stride, training)
        return ops.cast(logits, "float32") * factor

    def compute_losses(self, images, targets, raw, training):
        """Returns the losses of the stage, the others 0.

        Args:
            images: `(B, H, W, 3)`, or of four channels.
            targets: Dictionary with `instance_ids` and, of several classes, `semantic` or `labels`.
            raw: What `call` returned for the images.
            training: Whether this is a training step.

        Returns:
            Dictionary of scalars, see `loss_names`.
        """
        ids = _without_channel(targets["instance_ids"])
        check_instance_ids(type(self).__name__, ids, images)
        truth = watershed_targets(
            ids,
            level_edges=self.level_edges,
            image_border_is_outside=self.image_border_is_outside,
            min_area=self.target_min_area,
        )
        semantic = self._true_semantic(ids, targets)
        gate = self._semantic_of(raw) if self.gate == "external" else semantic
        gate = ops.logical_and(gate > 0, gate <= self.num_classes)
        losses = dict.fromkeys(self.loss_names, 0.0)
        if self._has_direction_loss():
            factor = 1.0 if self.stage == "direction" else self.direction_weight
            losses["direction_loss"] = factor * direction_loss(
                truth["direction"],
                raw["direction"],
                truth["weight"],
                gate=gate,
                include_ridge=self.include_ridge,
            )
        if "semantic_loss" in self._learnt_losses():
            losses["semantic_loss"] = self.semantic_weight * _mean_cross_entropy(
                semantic, raw["semantic"]
            )
        if self.stage != "direction":
            losses["watershed_loss"] = self._watershed_loss(truth, gate, raw, training)
        return losses

    def _watershed_loss(self, truth, gate, raw, training):
        weights = truth["weight"]
        if self.gate is None:
            weights = ops.where(gate, weights, self.background_weight)
            gate = None
        if training and self.stage == "watershed":
            energy = self.energy_logits(truth["direction"], gate, training)
        else:
            energy = raw["energy"]
        return watershed_energy_loss(
            truth["level"],
            energy,
            weights,
            gate=gate,
            level_weights=self.level_weights,
            form=self.energy_loss,
        )

    def decode(self, raw):
        """Returns the instances.

        Args:
            raw: What `call` returned, not in training.

        Returns:
            `{"instance_ids": (B, H, W) int32, "labels": (B, max_instances) int32, "scores": (B,
            max_instances) float32}`.
        """
        semantic = None if self.gate is None else self._semantic_of(raw)
        ids = watershed_instances(
            ops.cast(ops.argmax(raw["energy"], axis=-1), "int32"),
            cut=self.cut if isinstance(self.cut, tuple) else (self.cut,) * self.num_classes,
            semantic=semantic,
            min_area=self.min_area,
            grow=self.grow,
            fill_holes=self.fill_holes,
            grow_within=semantic > 0 if self.grow_within_gate else None,
        )
        ids = ops.where(ids > self.max_instances, 0, ids)
        labels, scores = self._classify(ids, semantic, raw)
        return {"instance_ids": ids, "labels": labels, "scores": scores}

    def _classify(self, ids, semantic, raw):
        """The class that most pixels of each instance have, and its mean probability there."""
        classes = ops.arange(1, self.num_classes + 1, dtype="int32")
        if semantic is None:
            votes = ops.ones_like(ids, "float32")[..., None]
        else:
            votes = ops.cast(semantic[..., None] == classes, "float32")
        probabilities = votes
        if self.gate == "head":
            probabilities = ops.softmax(raw["semantic"], axis=-1)[..., 1:]
        votes, probabilities, areas = (
            self._sum_by_instance(ids, values)
            for values in (votes, probabilities, ops.ones_like(votes[..., :1]))
        )
        exists = areas[..., 0] > 0
        labels = ops.cast(ops.argmax(votes, axis=-1), "int32")
        scores = ops.max(ops.where(classes - 1 == labels[..., None], probabilities, 0.0), axis=-1)
        scores = scores / ops.maximum(areas[..., 0], 1.0)
        return ops.where(exists, labels, -1), ops.where(exists, scores, 0.0)

    def _sum_by_instance(self, ids, values):
        """Sums `(B, H, W, C)` over the pixels of each instance: `(B, max_instances, C)`."""
        rows, (batch, channels) = self.max_instances + 1, (ops.shape(ids)[0], values.shape[-1])
        rows_of_images = ids + rows * ops.arange(batch, dtype="int32")[:, None, None]
        sums = ops.segment_sum(
            ops.reshape(values, (-1, channels)),
            ops.reshape(rows_of_images, (-1,)),
            num_segments=batch * rows,
        )
        return ops.reshape(sums, (batch, rows, channels))[:, 1:]

    def _semantic_of(self, raw):
        """Semantic map `(B, H, W)` int32 by the gate: 0 for background, k + 1 for class k."""
        if self.gate == "head":
            return ops.cast(ops.argmax(raw["semantic"], axis=-1), "int32")
        return raw["semantic"]

    def _semantic_map(self, values):
        """An external map as integers; what is no class of the model is background."""
        semantic = ops.cast(ops.round(ops.cast(values, "float32")), "int32")
        return ops.where(ops.logical_and(semantic > 0, semantic <= self.num_classes), semantic, 0)

    def _true_semantic(self, ids, targets):
        if targets.get("semantic") is not None:
            semantic = ops.cast(_without_channel(targets["semantic"]), "int32")
            return semantic if self.num_classes > 1 else ops.where(ids > 0, 1, semantic)
        if self.num_classes == 1:
            return ops.cast(ids > 0, "int32")
        labels = ops.pad(ops.cast(targets["labels"], "int32") + 1, ((0, 0), (1, 0)))
        classes = ops.take_along_axis(labels, ops.reshape(ids, (ops.shape(ids)[0], -1)), axis=1)
        return ops.reshape(classes, ops.shape(ids))

    def _check_targets(self, targets):
        if targets is None:  # `compute_loss` names those that are missing
            return
        needed = {"instance_ids"}
        if self.num_classes > 1 and isinstance(targets, dict) and "semantic" not in targets:
            needed |= {"labels"}
        if not isinstance(targets, dict) or not needed <= set(targets):
            received = sorted(targets) if isinstance(targets, dict) else type(targets).__name__
            raise ValueError(
                f"{type(self).__name__}: targets must be a dictionary with `instance_ids` and, of "
                "several classes, `semantic` or `labels`, as `kvision.data.to_fit(batch, "
                f"'instances')` makes it of a batch dictionary. Received: {received}."
            )
        if "labels" in needed:
            check_labels(type(self).__name__, targets["labels"], self.num_classes, -1, "padding")

    def default_evaluator(self):
        """Returns F1 and AP of the objects, whatever their classes.

        Returns:
            A `kvision.metrics.ObjectMetrics`.
        """
        return ObjectMetrics()

    def load_encoder(self, vgg):
        """Copies the convolutions of a VGG, such as one with ImageNet's weights.

        The channel of an external map begins with weights of 0.

        Args:
            vgg: A `kvision.backbones.VGG` of the same depths and widths.

        Raises:
            ValueError: If its depths or widths are others, or this model is normalised.
        """
        if (vgg.depths, vgg.widths, None) != (self.depths, self.widths, self.normalization):
            raise ValueError(
                f"DeepWatershed: `vgg` must have depths {self.depths} and widths {self.widths}, "
                f"and this model no normalisation. Received: {vgg.depths} and {vgg.widths}, and "
                f"normalization={self.normalization!r}."
            )
        for stage, depth in enumerate(self.depths, start=1):
            for index in range(1, depth + 1):
                own = self.direction_network.get_layer(f"conv{stage}_{index}")
                kernel, bias = vgg.get_layer(f"stage{stage}_conv{index}").get_weights()
                missing = own.kernel.shape[2] - kernel.shape[2]
                kernel = np.pad(kernel, ((0, 0), (0, 0), (0, missing), (0, 0)))
                own.set_weights([kernel, bias])

    def export(self, path, format="tf_saved_model", **kwargs):
        """Writes a SavedModel, see `kvision.export.saved_model`.

        Args:
            path: Folder to write.
            format: `"tf_saved_model"`.
            **kwargs: Arguments of `kvision.export.saved_model`.

        Returns:
            What `kvision.export.saved_model` returns.

        Raises:
            ValueError: For a model that needs an external semantic map.
        """
        if self.gate == "external":
            raise ValueError(
                "DeepWatershed: what is served is given images alone: `export` needs a model whose "
                "gate is 'head' or None. Received: gate='external'."
            )
        return super().export(path, format, **kwargs)

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, name) for name in ARGUMENTS}}


def _as_tuple(value):
    """Numbers as a tuple, one number or `None` as it is."""
    return tuple(value) if isinstance(value, tuple | list) else value


def _even_codes(num_classes):
    """From -128 to 128 in equal steps, without 0; of one class 128."""
    negative = num_classes // 2
    positive = num_classes - negative
    steps = [*range(-negative, 0), *range(1, positive + 1)]
    return [128.0 * step / positive for step in steps]


def _mean_cross_entropy(semantic, logits):
    """Mean over the pixels whose class is known."""
    known = ops.logical_and(semantic >= 0, semantic < logits.shape[-1])
    losses = ops.sparse_categorical_crossentropy(
        ops.where(known, semantic, 0), logits, from_logits=True
    )
    known = ops.cast(known, "float32")
    return ops.sum(losses * known) / ops.maximum(ops.sum(known), 1.0)


def _without_channel(maps):
    maps = ops.convert_to_tensor(maps)
    return maps[..., 0] if len(maps.shape) == 4 else maps
