"""Writes `faster_rcnn_parts.npz`: the steps of torchvision's Faster R-CNN on seeded inputs.

Run with PyTorch and torchvision (2.12.1 and 0.27.1 were used):
`python tests/golden/make_faster_rcnn_parts.py`. The inputs are stored beside the results.
"""

from pathlib import Path

import numpy as np
import torch
from torchvision.models.detection import roi_heads, rpn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

IMAGE_SIZE = (96, 128)
FEATURE_SIZES = ((24, 32), (12, 16), (6, 8))
ANCHOR_SIZES = ((16,), (32,), (64,))
RATIOS = (0.5, 1.0, 2.0)
NUM_CLASSES = 4


def random_boxes(rng, count):
    corner = rng.uniform((-10, -10), (110, 80), (count, 2))
    return np.concatenate([corner, corner + rng.uniform(2, 60, (count, 2))], 1).astype("float32")


def main():
    rng = np.random.default_rng(20)
    anchors = AnchorGenerator(ANCHOR_SIZES, (RATIOS,) * 3)
    network = rpn.RegionProposalNetwork(
        anchors,
        torch.nn.Identity(),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n={"training": 200, "testing": 200},
        post_nms_top_n={"training": 100, "testing": 100},
        nms_thresh=0.7,
    )
    images = ImageList(torch.zeros(2, 3, *IMAGE_SIZE), [IMAGE_SIZE, IMAGE_SIZE])
    boxes = anchors(images, [torch.zeros(2, 1, *size) for size in FEATURE_SIZES])
    counts = [3 * height * width for height, width in FEATURE_SIZES]
    total = sum(counts)
    logits = rng.normal(0, 2, (2, total)).astype("float32")
    deltas = rng.normal(0, 0.5, (2, total, 4)).astype("float32")
    decoded = network.box_coder.decode(torch.tensor(deltas).reshape(-1, 4), boxes)
    proposals, scores = network.filter_proposals(
        decoded.view(2, -1, 4), torch.tensor(logits).reshape(-1, 1), images.image_sizes, counts
    )
    ground_truth = [random_boxes(rng, 5), random_boxes(rng, 3)]
    targets = [{"boxes": torch.tensor(b)} for b in ground_truth]
    labels, matched = network.assign_targets_to_anchors(boxes, targets)
    offsets = network.box_coder.encode(matched, boxes)

    heads = roi_heads.RoIHeads(
        *(torch.nn.Identity(),) * 3,
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=512,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=0.05,
        nms_thresh=0.5,
        detections_per_img=100,
    )
    regions = [random_boxes(rng, 150) for _ in range(2)]
    class_logits = rng.normal(0, 2, (2, 150, NUM_CLASSES + 1)).astype("float32")
    box_deltas = rng.normal(0, 1.5, (2, 150, NUM_CLASSES + 1, 4)).astype("float32")
    found = heads.postprocess_detections(
        torch.tensor(class_logits).reshape(-1, NUM_CLASSES + 1),
        torch.tensor(box_deltas).reshape(-1, 4 * (NUM_CLASSES + 1)),
        [torch.tensor(r) for r in regions],
        [IMAGE_SIZE] * 2,
    )
    region_labels = heads.assign_targets_to_proposals(
        [torch.tensor(r) for r in regions],
        [t["boxes"] for t in targets],
        [torch.arange(len(b)) + 1 for b in ground_truth],
    )[1]
    arrays = {
        "logits": logits,
        "deltas": deltas,
        "regions": np.stack(regions),
        "class_logits": class_logits,
        "box_deltas": box_deltas,
        "anchors": boxes[0].numpy(),
    }
    for b in range(2):
        arrays |= {
            f"ground_truth_{b}": ground_truth[b],
            f"proposals_{b}": proposals[b].numpy(),
            f"anchor_labels_{b}": labels[b].numpy().astype("int8"),
            f"anchor_offsets_{b}": offsets[b].numpy()[labels[b].numpy() == 1],
            f"region_labels_{b}": region_labels[b].numpy().astype("int8"),
            f"boxes_{b}": found[0][b].numpy(),
            f"scores_{b}": found[1][b].numpy(),
            f"labels_{b}": found[2][b].numpy().astype("int8"),
        }
    np.savez_compressed(Path(__file__).with_name("faster_rcnn_parts.npz"), **arrays)


if __name__ == "__main__":
    main()
