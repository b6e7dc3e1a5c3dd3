"""Which images count, and how often."""

import numpy as np
import pytest

from kvision.metrics import VOCDetectionMetrics

BOXES = np.array([[(0, 0, 10, 10)], [(0, 0, 10, 20)], [(5, 5, 10, 20)]], "float32")


def update(metrics, image_ids, boxes=BOXES, **more):
    labels = np.zeros(boxes.shape[:2], "int32")
    detections = {"boxes": boxes, "scores": labels + 0.5, "labels": labels}
    targets = {"boxes": boxes, "labels": labels, "image_id": np.array(image_ids), **more}
    metrics.update(detections, targets)


def test_a_repeated_image_counts_once():
    metrics = VOCDetectionMetrics()
    update(metrics, [3, 1, 2])
    update(metrics, [1, 4], BOXES[[1, 2]])
    assert list(metrics.images) == [1, 2, 3, 4]
    padded = np.array([[(0, 0, 10, 10), (0, 0, 0, 0)]], "float32")
    labels = np.array([[0, -1]])
    metrics.update(
        {"boxes": padded[:, :0], "scores": labels[:, :0] + 0.5, "labels": labels[:, :0]},
        {"boxes": padded, "labels": labels, "image_id": np.array([3])},
    )
    assert len(metrics.images) == 4
    assert len(metrics.images[3].scores) == 1


@pytest.mark.parametrize(
    ("boxes", "more"),
    [
        (BOXES[:1], {}),
        (BOXES[1:2], {"difficult": np.array([[True]])}),
        (BOXES[1:2], {"area": np.array([[7.0]])}),
        (BOXES[1:2, :0], {}),
    ],
)
def test_two_images_of_one_id_are_refused(boxes, more):
    """As they come from two data sets that both count from 0."""
    metrics = VOCDetectionMetrics()
    update(metrics, [3, 1, 2])
    with pytest.raises(ValueError, match="update: two different images have the `image_id` 1"):
        update(metrics, [1], boxes, **more)
