"""Golden indices of torchvision's `nms` and of its per-class form.

Run in an environment with torch and torchvision, from the project's root:

    python -m tests.golden.make_nms

torchvision shifts classes apart by their coordinates where it can, which fails for negative ones;
the golden values are of the loop over classes that it runs where it cannot.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torchvision.ops.boxes import _batched_nms_vanilla

from tests.golden import nms_cases


def main():
    kept = [_nms(*nms_cases.nms_case(seed)) for seed in range(nms_cases.NUM_CASES)]
    batched = [
        row
        for seed in range(nms_cases.NUM_BATCHED_CASES)
        for row in _batched_nms(*nms_cases.batched_nms_case(seed))
    ]
    np.savez_compressed(
        Path(__file__).with_name("nms.npz"),
        torchvision=torchvision.__version__,
        **_packed("nms", kept),
        **_packed("batched_nms", batched),
    )


def _nms(boxes, scores, iou_threshold):
    tensors = torch.from_numpy(boxes), torch.from_numpy(scores)
    return torchvision.ops.nms(*tensors, iou_threshold).numpy()


def _batched_nms(boxes, scores, iou_threshold):
    """Positions `box * num_classes + class` of each image's detections."""
    num_classes = scores.shape[2]
    boxes = np.broadcast_to(boxes, (*scores.shape, 4))
    for image_boxes, image_scores in zip(boxes, scores, strict=True):
        flat = torch.from_numpy(image_scores.reshape(-1))
        candidates = torch.where(flat > nms_cases.BATCHED_SCORE_THRESHOLD)[0]
        kept = _batched_nms_vanilla(
            torch.from_numpy(image_boxes.reshape(-1, 4).copy())[candidates],
            flat[candidates],
            candidates % num_classes,
            iou_threshold,
        )
        yield candidates[kept][: nms_cases.BATCHED_OUTPUT_SIZE].numpy()


def _packed(name, arrays):
    return {
        f"{name}_values": np.concatenate(arrays).astype("int16"),
        f"{name}_lengths": np.array([len(array) for array in arrays], "int16"),
    }


if __name__ == "__main__":
    main()
