"""RoI pooling on the CPU, forward and with the gradient, against torchvision's.

The map and the boxes of `roi_align.py`. TensorFlow has no such op. How it is measured:
`_versus.py`.

    python benchmarks/roi_pool.py --peer PATH/TO/PYTHON/WITH/TORCHVISION
"""

from _versus import Workload, main
from roi_align import BINS, STRIDE, case, channels_first, with_gradient


def kvision(features, boxes):
    """Output `(1, boxes, BINS, BINS, channels)`."""
    from kvision.ops import roi_pool

    return roi_pool(features, boxes, output_size=BINS, spatial_scale=1 / STRIDE)


def torchvision(features, boxes, *gradient):
    """The same from torchvision, channels first, and the gradient of the features for one given."""
    import torch
    from torchvision.ops import roi_pool

    output = roi_pool(features.requires_grad_(bool(gradient)), [boxes[0]], BINS, 1 / STRIDE)
    return output, *(torch.autograd.grad(output, features, *gradient) if gradient else [])


if __name__ == "__main__":
    peer = {"torchvision": torchvision, "for_torchvision": channels_first}
    tolerance = {"torchvision": 1e-6}
    main(
        __doc__.partition("\n")[0],
        {
            "roi_pool, forward": Workload(lambda: case()[:2], kvision, tolerance=tolerance, **peer),
            "roi_pool, forward + backward": Workload(
                case, with_gradient(kvision), tolerance=tolerance, **peer
            ),
        },
    )
