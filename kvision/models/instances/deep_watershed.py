"""The deep watershed transform (Bai and Urtasun, CVPR 2017)."""

import keras
import numpy as np
from keras import layers, ops

from kvision.backbones.pixels import CONVENTIONS
from kvision.backbones.pixels import normalize_pixels as normalized
from kvision.layers import BatchNormalization, BilinearKernel
from kvision.losses import direction_loss, watershed_energy_loss
from kvision.losses.watershed_losses import unit_vectors
from kvision.metrics import ObjectMetrics
from kvision.models.detection.detector import Detector
from kvision.ops import DWT_EDGES, watershed_instances, watershed_targets

_NO_TRUTH = 255


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

    Directions and energy are 0 outside of the gate; so the level there is 0.

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
        self._check_arguments()
        if gate == "external":
            self.image_channels = 4
            if semantic_codes is None:
                semantic_codes = _even_codes(num_classes)
            # The background has 0; as published, it is blanked with the image.
            self._codes = np.array([0, *semantic_codes], "float32")

        self.direction_network = self._make_direction_network()
        self.energy_network = self._make_energy_network()
        self.stage = stage
        self.built = True

    @property
    def stage(self):
        """What the next `compile` and `fit` train, one of `stages`."""
        return self._stage

    @stage.setter
    def stage(self, stage):
        if stage not in self.stages:
            self._refuse_argument("stage", f"one of {self.stages}", stage)
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

    def _make_direction_network(self):
        x = images = keras.Input((None, None, self.image_channels), name="images")
        joined = []
        for stage, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            for index in range(1, depth + 1):
                x = self._conv(x, width, 3, f"conv{stage}_{index}")
            if stage >= 3:
                branch = self._conv(x, width, 5, f"branch{stage}_1")
                branch = self._conv(branch, width, 1, f"branch{stage}_2")
                branch = self._conv(branch, self.branch_filters, 1, f"branch{stage}_3")
                finer = int(np.prod(self.strides[2 : stage - 1]))
                joined.append(self._enlarge(branch, finer, f"branch{stage}_up"))
            if stage <= 4 and self.strides[stage - 1] > 1:
                # Averages where VGG has maxima, as published.
                pool = layers.MaxPooling2D if stage <= 2 else layers.AveragePooling2D
                x = pool(2, dtype=self.dtype_policy, name=f"pool{stage}")(x)
        stride = self.strides[0] * self.strides[1]
        joined = layers.Concatenate(dtype=self.dtype_policy, name="joined")(joined)

        x = self._conv(joined, self.fuse_filters, 1, "fuse1")
        x = self._conv(x, self.fuse_filters, 1, "fuse2")
        direction = self._conv(x, 2, 1, "fuse3", relu=False)
        outputs = {"direction": self._enlarge(direction, stride, "direction")}
        if self.gate == "head":
            x = self._conv(joined, self.fuse_filters, 1, "semantic1")
            logits = self._conv(x, self.num_classes + 1, 1, "semantic2", relu=False)
            outputs["semantic"] = self._enlarge(logits, stride, "semantic")
        return keras.Model(images, outputs, name="direction_network")

    def _make_energy_network(self):
        x = directions = keras.Input((None, None, 2), name="directions")
        for block, (widths, stride) in enumerate(
            zip(self.energy_widths, self.energy_strides, strict=True), 1
        ):
            for index, width in enumerate(widths, 1):
                x = self._conv(x, width, 5, f"energy{block}_{index}")
            if stride > 1:
                x = layers.AveragePooling2D(2, dtype=self.dtype_policy, name=f"pool{block}")(x)
        num_levels = len(self.level_edges)
        x = self._conv(x, self.energy_filters, 1, "energy_fuse1")
        x = layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop1")(x)
        x = self._conv(x, num_levels, 1, "energy_fuse2", normalized=False)  # a ReLU, as published
        x = layers.Dropout(self.dropout, dtype=self.dtype_policy, name="drop2")(x)
        x = self._enlarge(x, int(np.prod(self.energy_strides)), "energy")
        return keras.Model(directions, x, name="energy_network")

    def _conv(self, x, filters, kernel_size, name, *, relu=True, normalized=True):
        normalized = normalized and relu and self.normalization == "batch"
        x = layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            use_bias=not normalized,
            kernel_initializer="he_normal",
            dtype=self.dtype_policy,
            name=name,
        )(x)
        if normalized:
            x = BatchNormalization(
                epsilon=1e-5, momentum=0.9, dtype=self.dtype_policy, name=f"{name}_norm"
            )(x)
        return layers.ReLU(dtype=self.dtype_policy, name=f"{name}_relu")(x) if relu else x

    def _enlarge(self, x, factor, name):
        """A transposed convolution that begins as bilinear upsampling."""
        if factor == 1:
            return x
        return layers.Conv2DTranspose(
            x.shape[-1],
            2 * factor,
            strides=factor,
            padding="same",
            use_bias=False,
            kernel_initializer=BilinearKernel(),
            dtype=self.dtype_policy,
            name=name,
        )(x)

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
        outputs = _on_whole_cells(
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
        logits = _on_whole_cells(self.energy_network, directions * factor, stride, training)
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
        if tuple(ids.shape[1:3]) != tuple(images.shape[1:3]):
            self._refuse_argument("instance_ids", "as large as the images", tuple(ids.shape))
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
            cut=self._of_each_class(self.cut),
            semantic=semantic,
            min_area=self.min_area,
            grow=self.grow,
            fill_holes=self.fill_holes,
            grow_within=semantic > 0 if self.grow_within_gate else None,
        )
        ids = ops.where(ids > self.max_instances, 0, ids)
        labels, scores = self._classify(ids, semantic, raw)
        return {"instance_ids": ids, "labels": labels, "scores": scores}

    def _of_each_class(self, value):
        """A number for each class, by which `watershed_instances` knows how many there are."""
        return value if isinstance(value, tuple) else (value,) * self.num_classes

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

    def _check_arguments(self):
        def check(name, right, wanted):
            if not right:
                self._refuse_argument(name, wanted, getattr(self, name))

        check("gate", self.gate in ("head", "external", None), "'head', 'external' or None")
        if self.gate is None and self.num_classes > 1:
            self._refuse_argument("gate", "one that knows the classes, of several", None)
        edges = self.level_edges
        rising = len(edges) >= 2 and edges[0] == 0 and all(np.diff(edges) > 0)
        check("level_edges", rising, "at least two increasing numbers, of which the first is 0")
        forms = ("binary", "cross_entropy")
        check("energy_loss", self.energy_loss in forms, f"one of {forms}")
        check("normalization", self.normalization in (None, "batch"), "None or 'batch'")
        conventions = tuple(CONVENTIONS)
        check("normalize_pixels", self.normalize_pixels in conventions, f"one of {conventions}")
        for name in ("depths", "widths"):
            values = getattr(self, name)
            check(name, len(values) == 5 and min(values) > 0, "five positive integers")
        for name, number in (("strides", 4), ("energy_strides", len(self.energy_widths))):
            values = getattr(self, name)
            right = len(values) == number and set(values) <= {1, 2}
            check(name, right, f"{number} integers, each of them 1 or 2")
        for name in ("direction_weight", "semantic_weight", "background_weight"):
            check(name, getattr(self, name) >= 0, "not negative")
        codes = self.semantic_codes
        check("semantic_codes", codes is None or len(codes) == self.num_classes, "one a class")
        weights, number = self.level_weights, len(edges)
        check("level_weights", weights is None or len(weights) == number, f"{number} numbers")
        for name in ("cut", "min_area", "grow"):
            value = getattr(self, name)
            right = not isinstance(value, tuple) or len(value) == self.num_classes
            check(name, right, "a number, or one for each class")
        check("max_instances", self.max_instances >= 1, "positive")
        if self.grow_within_gate and self.gate is None:
            self._refuse_argument("grow_within_gate", "False without a gate", True)

    def _refuse_argument(self, name, wanted, received):
        raise ValueError(
            f"{type(self).__name__}: `{name}` must be {wanted}. Received: {received!r}."
        )

    def get_config(self):
        names = (
            "gate",
            "stage",
            "level_edges",
            "level_weights",
            "energy_loss",
            "include_ridge",
            "direction_weight",
            "semantic_weight",
            "background_weight",
            "image_border_is_outside",
            "target_min_area",
            "depths",
            "widths",
            "strides",
            "branch_filters",
            "fuse_filters",
            "energy_widths",
            "energy_strides",
            "energy_filters",
            "normalization",
            "dropout",
            "semantic_codes",
            "normalize_pixels",
            "cut",
            "min_area",
            "grow",
            "fill_holes",
            "grow_within_gate",
            "max_instances",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


def _as_tuple(value):
    """Numbers as a tuple, one number or `None` as it is."""
    return tuple(value) if isinstance(value, tuple | list) else value


def _on_whole_cells(network, maps, stride, training):
    """Runs a network on maps that are padded to whole cells of its stride, and crops its maps."""
    height, width = ops.shape(maps)[1:3]
    borders = ((0, 0), (0, -height % stride), (0, -width % stride), (0, 0))
    outputs = network(ops.pad(maps, borders), training=training)
    return keras.tree.map_structure(lambda values: values[:, :height, :width], outputs)


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
