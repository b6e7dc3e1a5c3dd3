"""Times of the ops on boxes against torchvision and CuPy."""

import math

import torch
import torchvision
from torchvision.models.detection._utils import Matcher

from kvision.ops import native

INF = math.inf


def _boxes(device, *shape, spread=1300.0, low=20.0, high=220.0):
    centre = torch.rand(*shape, 2, device=device) * spread
    half = (low + (high - low) * torch.rand(*shape, 2, device=device)) / 2
    return torch.cat([centre - half, centre + half], -1)


def _clustered(device, number):
    """Boxes as a detector proposes them: 33 around each object."""
    objects = max(number // 33, 1)
    which = torch.randint(0, objects, (number,), device=device)
    centre = (torch.rand(objects, 2, device=device) * 1300)[which]
    size = (20 + 200 * torch.rand(objects, 2, device=device))[which]
    centre = centre + size * 0.08 * torch.randn(number, 2, device=device)
    size = size * (1 + 0.08 * torch.randn(number, 2, device=device))
    return torch.cat([centre - size / 2, centre + size / 2], -1)


def _dense(device, number):
    return _boxes(device, number, spread=1000.0, low=5.0, high=100.0)


def _apart(device, number):
    return _boxes(device, number, spread=20000.0, low=10.0, high=100.0)


def nms(table, clock, device):
    """Of proposals, and of as many boxes as there can be."""
    for number in (2000, 100000) if device == "cuda" else (200,):
        for kind, draw in (("clustered", _clustered), ("dense", _dense), ("apart", _apart)):
            sets = [(draw(device, number), torch.rand(number, device=device)) for _ in range(3)]

            def ours(boxes, scores):
                return native.call("nms", boxes, scores, iou_threshold=0.5, score_threshold=-INF)

            def theirs(boxes, scores):
                return torchvision.ops.nms(boxes, scores, 0.5)

            times = clock.milliseconds(ours, sets), clock.milliseconds(theirs, sets)
            table.row(
                "nms", f"{number} boxes, {kind}", "float32", times[0], "torchvision", times[1]
            )


def batched_nms(table, clock, device):
    """Of a head's classes, and of the region proposals of several levels."""
    layouts = [(8, 1000, 80, 80, 0.05), (40, 2000, 1, 1, -INF), (8, 20000, 1, 1, -INF)]
    if device != "cuda":
        layouts = [(2, 50, 4, 4, 0.05)]
    for batch, number, classes, with_boxes, threshold in layouts:
        sets = []
        for _ in range(2):
            boxes = _boxes(device, batch, number, with_boxes, spread=1000.0)
            scores = torch.rand(batch, number, classes, device=device)
            if classes > 1:
                scores = torch.softmax(3 * torch.randn(batch, number, classes, device=device), -1)
            sets.append((boxes, scores))
        size = 100 if classes > 1 else 1000
        ids = torch.arange(batch * classes, device=device).view(batch, 1, classes)

        def ours(boxes, scores, size=size, number=number, threshold=threshold):
            return native.call(
                "batched_nms", boxes, scores, iou_threshold=0.5, score_threshold=threshold,
                max_output_size=size, max_output_size_per_class=number,
            )  # fmt: skip

        def theirs(boxes, scores, ids=ids, threshold=threshold):
            kept = scores > threshold
            of_class = ids.expand(scores.shape)[kept]
            return torchvision.ops.batched_nms(
                boxes.expand(*scores.shape, 4)[kept], scores[kept], of_class, 0.5
            )

        times = clock.milliseconds(ours, sets), clock.milliseconds(theirs, sets)
        label = f"{batch} x {number} x {classes} classes"
        table.row("batched_nms", label, "float32", times[0], "torchvision", times[1])


def decaying_nms(table, clock, device):
    """`soft_nms` and `matrix_nms`, which no other library has on a GPU."""
    for op in ("soft_nms", "matrix_nms"):
        for number in (2000, 10000) if device == "cuda" else (100,):
            sets = [
                (
                    _clustered(device, number),
                    torch.rand(number, device=device),
                    torch.randint(0, 80, (number,), device=device).int(),
                )
                for _ in range(3)
            ]

            def ours(*tensors, op=op):
                return native.call(op, *tensors, method="gaussian")

            label = f"{number} boxes, 80 classes"
            table.row(op, label, "float32", clock.milliseconds(ours, sets))


def match_boxes(table, clock, device):
    """Anchors of a whole pyramid against the boxes of eight images."""
    batch, scale = (8, 1) if device == "cuda" else (2, 8)
    anchors = []
    for stride in (4, 8, 16, 32, 64):
        rows, columns = (-(-side // (stride * scale)) for side in (800, 1344))
        y, x = torch.meshgrid(
            torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij"
        )
        aspect = torch.tensor([0.5, 1, 2], device=device).sqrt()
        half = torch.stack([8 * stride / aspect, 8 * stride * aspect], -1) / 2
        centre = torch.stack([x, y], -1).view(-1, 1, 2) * stride
        anchors.append(torch.cat([centre - half, centre + half], -1).view(-1, 4))
    anchors = torch.cat(anchors).contiguous()
    matcher = Matcher(0.7, 0.3, allow_low_quality_matches=True)
    for number in (20, 100):
        boxes = _boxes(device, batch, number)
        valid = torch.ones(batch, number, dtype=torch.bool, device=device)
        crowd = torch.zeros_like(valid)

        def ours(boxes=boxes, valid=valid, crowd=crowd):
            return native.call(
                "match_boxes", boxes, valid, crowd, anchors[None],
                positive_threshold=0.7, negative_threshold=0.3, allow_low_quality=True,
            )  # fmt: skip

        def theirs(boxes=boxes):
            return [matcher(torchvision.ops.box_iou(one, anchors)) for one in boxes]

        times = clock.milliseconds(ours), clock.milliseconds(theirs)
        label = f"{batch} x {len(anchors)} anchors x {number} boxes"
        # The anchors once for all images, and two integers for each.
        moved = len(anchors) * (16 + 8 * batch)
        table.row(
            "match_boxes", label, "float32", times[0], "torchvision's IoU, Matcher", times[1], moved
        )


def pairwise_iou(table, clock, device):
    """A matrix of overlaps, and its gradient."""
    number = 8192 if device == "cuda" else 50
    boxes1, boxes2 = _boxes(device, 1, number), _boxes(device, 1, number)
    upstream = torch.randn(1, number, number, device=device)
    moved = 4 * number * number
    label = f"{number} x {number}"
    theirs = {
        "iou": torchvision.ops.box_iou,
        "giou": torchvision.ops.generalized_box_iou,
        "diou": torchvision.ops.distance_box_iou,
        "ciou": torchvision.ops.complete_box_iou,
    }
    for kind, function in theirs.items():

        def ours(kind=kind):
            return native.call("pairwise_iou", boxes1, boxes2, kind=kind)

        def gradient(kind=kind):
            return native.call("pairwise_iou_gradient", upstream, boxes1, boxes2, kind=kind)

        times = (
            clock.milliseconds(ours),
            clock.milliseconds(lambda f=function: f(boxes1[0], boxes2[0])),
        )
        name = f"pairwise_iou, {kind}"
        table.row(name, label, "float32", times[0], "torchvision", times[1], moved)
        with torch.enable_grad():
            watched = [boxes1[0].clone().requires_grad_(), boxes2[0].clone().requires_grad_()]
            output = function(*watched)

        def their_gradient(output=output, watched=watched):
            return torch.autograd.grad(output, watched, upstream[0], retain_graph=True)

        times = clock.milliseconds(gradient), clock.milliseconds(their_gradient)
        table.row(f"{name}, gradient", label, "float32", times[0], "torchvision", times[1], moved)
        del output, watched, their_gradient
    _against_cupy(table, clock, device, boxes1, boxes2, label, moved)


_CUPY = """
int row = i / n, column = i % n;
float x1 = a[4 * row], y1 = a[4 * row + 1], x2 = a[4 * row + 2], y2 = a[4 * row + 3];
float u1 = b[4 * column], v1 = b[4 * column + 1], u2 = b[4 * column + 2], v2 = b[4 * column + 3];
float w = max(min(x2, u2) - max(x1, u1), 0.0f), h = max(min(y2, v2) - max(y1, v1), 0.0f);
float common = w * h, all = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1) - common;
iou = common / all;
"""


def _against_cupy(table, clock, device, boxes1, boxes2, label, moved):
    """What somebody would write with CuPy: one elementwise kernel."""
    if device != "cuda":
        return
    import cupy

    kernel = cupy.ElementwiseKernel(
        "raw float32 a, raw float32 b, int32 n", "float32 iou", _CUPY, "kvision_bench_iou"
    )
    a, b = (cupy.from_dlpack(boxes.view(-1)) for boxes in (boxes1, boxes2))
    number = boxes1.shape[1]
    output = cupy.empty((number, number), "float32")

    def theirs():
        # In the stream in which the clock runs.
        with cupy.cuda.ExternalStream(torch.cuda.current_stream().cuda_stream):
            kernel(a, b, number, output)

    def ours():
        return native.call("pairwise_iou", boxes1, boxes2, kind="iou")

    times = clock.milliseconds(ours), clock.milliseconds(theirs)
    difference = (torch.from_dlpack(output) - ours()[0]).abs().max()
    print(f"greatest difference from CuPy {difference:.1e}")
    peer = "CuPy's elementwise kernel"
    table.row("pairwise_iou, iou", label, "float32", times[0], peer, times[1], moved)


def elementwise_iou(table, clock, device):
    """A million pairs, as in a loss."""
    number = 4_000_000 if device == "cuda" else 100
    boxes1, boxes2 = _boxes(device, 1, number), _boxes(device, 1, number)
    upstream = torch.randn(1, number, device=device)
    losses = {
        "giou": torchvision.ops.generalized_box_iou_loss,
        "ciou": torchvision.ops.complete_box_iou_loss,
    }
    for kind, function in losses.items():

        def ours(kind=kind):
            return native.call("elementwise_iou", boxes1, boxes2, kind=kind)

        def gradient(kind=kind):
            return native.call("elementwise_iou_gradient", upstream, boxes1, boxes2, kind=kind)

        times = (
            clock.milliseconds(ours),
            clock.milliseconds(lambda f=function: f(boxes1[0], boxes2[0])),
        )
        name, label = f"elementwise_iou, {kind}", f"{number} pairs"
        table.row(name, label, "float32", times[0], "torchvision's loss", times[1], 36 * number)
        with torch.enable_grad():
            watched = [boxes1[0].clone().requires_grad_(), boxes2[0].clone().requires_grad_()]
            output = function(*watched)

        def their_gradient(output=output, watched=watched):
            return torch.autograd.grad(output, watched, upstream[0], retain_graph=True)

        times = clock.milliseconds(gradient), clock.milliseconds(their_gradient)
        table.row(
            f"{name}, gradient", label, "float32", times[0], "torchvision's loss", times[1],
            68 * number,
        )  # fmt: skip


MEASURES = (nms, batched_nms, decaying_nms, match_boxes, pairwise_iou, elementwise_iou)
