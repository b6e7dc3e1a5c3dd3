"""What a served model answers, one class a task: how raw outputs become it, and when two agree.

Each class has:

* ``answer(model, raw, sizes)``: the outputs for images that were ``sizes (B, 2)`` large when the
  client sent them;
* ``damaged``: what stands in each output for an image that cannot be decoded;
* ``compare(expected, received)``: how many of ``counted`` things were compared, and the largest
  difference of each kind; a ValueError where the two do not agree.
"""

import numpy as np

from kvision.boxes.resize import resized_size, restore_boxes
from kvision.ops import paste_masks

BOX_TOLERANCE = 1e-3
"""How far a box side may move, in pixels."""

SCORE_TOLERANCE = 1e-5
"""How far a score may move."""

MASK_TOLERANCE = 1e-4
"""How far the probability of a mask's pixel may move, where its box may move as well."""


class Detections:
    """What a detector answers.

    ``boxes (B, K, 4)`` float32, xyxy in the pixels of each image, ``scores (B, K)`` float32,
    ``labels (B, K)`` int32 (-1 is padding), ``num_detections (B,)`` int32.
    """

    damaged = {"boxes": 0.0, "scores": 0.0, "labels": -1, "num_detections": -1}
    counted = "detections"

    @staticmethod
    def answer(model, raw, sizes):
        decoded = model.decode(raw)
        boxes = restore_boxes(decoded["boxes"], sizes, model.image_size, model.resize_policy)
        return {**decoded, "boxes": boxes}

    @staticmethod
    def compare(expected, received):
        differences = {"boxes": 0.0, "scores": 0.0}
        count = 0
        for _, _, gaps in _pairs(expected, received):
            count += 1
            differences = {kind: max(differences[kind], gaps[kind]) for kind in gaps}
        return count, differences


def _pairs(expected, received):
    """Pairs each detection with one of the same label whose box and score are within tolerance.

    Two detections of almost equal score may stand in either order.

    Yields:
        The places `(image, row)` of a detection and of its partner, and how far they are apart.

    Raises:
        ValueError: Where one has no partner.
    """
    numbers = [np.asarray(batch["num_detections"]).tolist() for batch in (expected, received)]
    if numbers[0] != numbers[1]:
        raise ValueError(f"num_detections are {numbers[1]} where {numbers[0]} were expected")
    for item, number in enumerate(numbers[0]):
        (boxes, scores, labels), (other_boxes, other_scores, other_labels) = (
            [np.asarray(batch[name])[item, : max(number, 0)] for name in _LISTED]
            for batch in (expected, received)
        )
        box_gaps = np.abs(boxes[:, None] - other_boxes[None]).max(axis=-1, initial=0)
        score_gaps = np.abs(scores[:, None] - other_scores[None])
        partners = (
            (labels[:, None] == other_labels[None])
            & (box_gaps <= BOX_TOLERANCE)
            & (score_gaps <= SCORE_TOLERANCE)
        )
        for index in range(number):
            candidates = np.flatnonzero(partners[index])
            if not candidates.size:
                raise ValueError(
                    f"image {item}: no partner within {BOX_TOLERANCE:g} px and "
                    f"{SCORE_TOLERANCE:g} for detection {index} (label {labels[index]}, "
                    f"score {scores[index]:.9g}, box {boxes[index].tolist()}); "
                    f"in its place stands label {other_labels[index]}, "
                    f"score {other_scores[index]:.9g}, box {other_boxes[index].tolist()}"
                )
            partner = candidates[np.argmin(box_gaps[index, candidates])]
            partners[:, partner] = False
            gaps = {"boxes": box_gaps, "scores": score_gaps}
            gaps = {kind: float(gap[index, partner]) for kind, gap in gaps.items()}
            yield (item, index), (item, partner), gaps


_LISTED = ("boxes", "scores", "labels")


class Instances:
    """What an instance segmenter answers.

    ``instance_ids (B, H, W)`` int32, a label map in the pixels of each image, 0 for none, and its
    size ``sizes (B, 2)`` int32. Where the images of a request have several sizes, H and W are the
    largest, and ids beyond an image are 0. It is made at the size of the model's images, and
    resized to the nearest pixel.

    A model that detects gives what a detector answers as well, and ``masks (B, K, M, M)`` float32:
    the probabilities of the pixels of each box. Id k + 1 is detection k then, and the ids of
    detections that are hidden behind better ones are missing.
    """

    damaged = {**Detections.damaged, "masks": 0.0, "instance_ids": 0, "sizes": 0}
    counted = "instances"

    @staticmethod
    def answer(model, raw, sizes):
        import tensorflow as tf

        decoded = model.decode(raw)
        if "boxes" in decoded:
            ids = paste_masks(decoded["masks"], decoded["boxes"], image_size=model.image_size)
            boxes = restore_boxes(decoded["boxes"], sizes, model.image_size, model.resize_policy)
            decoded = {**decoded, "boxes": boxes}
        else:
            ids = decoded["instance_ids"]
        largest = tf.reduce_max(sizes, axis=0)

        def restore(image):
            ids, size = image
            inside = resized_size(size, model.image_size, model.resize_policy)
            ids = tf.image.resize(ids[: inside[0], : inside[1], None], size, "nearest")[..., 0]
            return tf.pad(ids, [[0, largest[0] - size[0]], [0, largest[1] - size[1]]])

        spec = tf.TensorSpec((None, None), "int32")
        ids = tf.map_fn(restore, (ids, sizes), fn_output_signature=spec)
        return {**decoded, "instance_ids": ids, "sizes": sizes}

    @staticmethod
    def compare(expected, received):
        differences = {}
        if "boxes" in expected:
            _, differences = Detections.compare(expected, received)
            differences["masks"] = 0.0
            for place, other, _ in _pairs(expected, received):
                gap = np.abs(expected["masks"][place] - received["masks"][other]).max()
                differences["masks"] = max(differences["masks"], float(gap))
            if not differences["masks"] <= MASK_TOLERANCE:
                raise ValueError(f"masks differ by up to {differences['masks']:.3g}")
        maps = expected["instance_ids"], received["instance_ids"]
        if maps[0].shape != maps[1].shape:
            raise ValueError(
                f"instance_ids have shape {maps[1].shape} where {maps[0].shape} was expected"
            )
        found = 0
        for ids, others in zip(*maps, strict=True):
            apart = 1 - _common_share(ids, others)
            if apart > 1e-3:
                raise ValueError(f"{apart:.2%} of an image's pixels are of another instance")
            found += int((np.unique(ids) > 0).sum())
        return found, differences


def _common_share(ids, others):
    """Share of the pixels that are of the same instance, where each has one id in either map.

    Detections of almost equal scores may have exchanged their ids, and single pixels of a mask's
    border may be on either side.
    """
    both = np.stack([ids, others], axis=-1).reshape(-1, 2)
    pairs, counts = np.unique(both, axis=0, return_counts=True)
    to_other, to_one, common = {0: 0}, {0: 0}, 0
    for index in np.argsort(-counts, kind="stable"):
        one, other = pairs[index].tolist()
        if to_other.get(one, other) == other and to_one.get(other, one) == one:
            to_other[one], to_one[other] = other, one
            common += counts[index]
    return common / max(ids.size, 1)


class LabelMaps:
    """What a segmenter answers.

    ``labels (B, H, W)`` int32 and their probabilities ``scores (B, H, W)`` float32 in the pixels of
    each image, and its size ``sizes (B, 2)`` int32. Where the images of a request have several
    sizes, H and W are the largest, and what is beyond an image is -1 and 0.
    """

    damaged = {"labels": -1, "scores": 0.0, "sizes": 0}
    counted = "pixels"

    @staticmethod
    def answer(model, raw, sizes):
        import tensorflow as tf

        largest = tf.reduce_max(sizes, axis=0)

        def restore(image):
            logits, size = image
            inside = resized_size(size, model.image_size, model.resize_policy)
            logits = tf.image.resize(logits[: inside[0], : inside[1]], size)
            decoded = model.decode(logits[None])
            rest = [[0, largest[0] - size[0]], [0, largest[1] - size[1]]]
            return (
                tf.pad(decoded["labels"][0], rest, constant_values=-1),
                tf.pad(decoded["scores"][0], rest),
            )

        labels, scores = tf.map_fn(
            restore,
            (raw, sizes),
            fn_output_signature=(
                tf.TensorSpec((None, None), "int32"),
                tf.TensorSpec((None, None), "float32"),
            ),
        )
        return {"labels": labels, "scores": scores, "sizes": sizes}

    @staticmethod
    def compare(expected, received):
        # Of two classes that are almost equally probable either may stand in a pixel.
        if expected["labels"].shape != received["labels"].shape:
            raise ValueError(
                f"labels have shape {received['labels'].shape} where {expected['labels'].shape} "
                "was expected"
            )
        difference = _score_difference(expected, received)
        other = np.mean(expected["labels"] != received["labels"])
        if other > 1e-3:
            raise ValueError(f"{other:.2%} of the pixels have another label")
        return expected["labels"].size, {"scores": difference}


class ClassScores:
    """What a classifier answers.

    The most probable class ``labels (B,)`` int32 and all probabilities ``scores (B, num_classes)``
    float32.
    """

    damaged = {"labels": -1, "scores": 0.0}
    counted = "images"

    @staticmethod
    def answer(model, raw, sizes):
        del sizes
        return model.decode(raw)

    @staticmethod
    def compare(expected, received):
        difference = _score_difference(expected, received)
        scores = np.asarray(expected["scores"])
        for item, (label, other) in enumerate(
            zip(expected["labels"], received["labels"], strict=True)
        ):
            apart = label != other and (
                min(label, other) < 0 or scores[item, label] - scores[item, other] > SCORE_TOLERANCE
            )
            if apart:
                raise ValueError(f"image {item} is {other} where {label} was expected")
        return len(scores), {"scores": difference}


def _score_difference(expected, received):
    difference = float(np.abs(expected["scores"] - received["scores"]).max(initial=0))
    if not difference <= SCORE_TOLERANCE:
        raise ValueError(f"scores differ by up to {difference:.3g}, more than {SCORE_TOLERANCE:g}")
    return difference


ANSWERS = {
    "detection": Detections,
    "instances": Instances,
    "segmentation": LabelMaps,
    "classification": ClassScores,
}
"""The class of each `kvision.models.ImageModel.task`."""
