"""torchvision's side of the comparison. Features arrive channels last and leave so."""

import numpy as np
import torch
import torchvision.ops
from serving import padded, serve
from torch import from_numpy as tensor
from torch.nn import functional
from torchvision.models.detection import roi_heads


def nms(boxes, scores, iou_threshold):
    kept = torchvision.ops.nms(tensor(boxes), tensor(scores), iou_threshold)
    return padded(kept.numpy(), len(scores))


def batched_nms(boxes, scores, classes, iou_threshold):
    arrays = map(tensor, (boxes, scores, classes))
    return padded(torchvision.ops.batched_nms(*arrays, iou_threshold).numpy(), len(scores))


def pooled(pool, features, boxes, dtype, gradient=None, **arguments):
    """Per box `(height, width, channels)`; with an upstream gradient, the features' gradient."""
    features = tensor(features).to(getattr(torch, dtype)).permute(0, 3, 1, 2).contiguous()
    features.requires_grad_()
    regions = [tensor(image).to(features.dtype) for image in boxes]
    output = pool(features, regions, **arguments)
    if gradient is None:
        return output.detach().double().permute(0, 2, 3, 1).numpy()
    gradient = tensor(gradient).to(features.dtype).flatten(0, 1).permute(0, 3, 1, 2)
    (gradient,) = torch.autograd.grad(output, features, gradient)
    return gradient.double().permute(0, 2, 3, 1).numpy()


def roi_align(features, boxes, output_size, **call):
    """As `pooled`; NaN for a box at which torchvision raises."""
    try:
        return pooled(
            torchvision.ops.roi_align, features, boxes, output_size=output_size.tolist(), **call
        )
    except (ValueError, RuntimeError):
        if boxes.size == 4:
            return np.full((1, *output_size, features.shape[3]), np.nan)
        single = [
            roi_align(features[[image]], box[None, None], output_size, **call)
            for image, image_boxes in enumerate(boxes)
            for box in image_boxes
        ]
        return np.concatenate(single)


def roi_pool(output_size, **call):
    return pooled(torchvision.ops.roi_pool, output_size=output_size.tolist(), **call)


def conv2d(x, rates, relu, gradient=None, **weights):
    """Convolutions side by side; with an upstream gradient, all gradients in one row."""
    x = tensor(x)
    kernels, biases = (
        [tensor(weights[f"{kind}_{n}"]) for n in range(len(rates))] for kind in ("kernel", "bias")
    )
    inputs = [t.requires_grad_() for t in (x, *kernels, *biases)]
    branches = [
        torch.nn.functional.conv2d(
            x.permute(0, 3, 1, 2),
            kernel.permute(3, 2, 0, 1),
            bias,
            padding=kernel.shape[0] // 2 * rate,
            dilation=rate,
        )
        for kernel, bias, rate in zip(kernels, biases, rates.tolist(), strict=True)
    ]
    output = torch.cat(branches, 1).permute(0, 2, 3, 1)
    if gradient is None:
        return (output.relu() if relu else output).detach().numpy()
    gradients = torch.autograd.grad(output, inputs, tensor(gradient))
    return np.concatenate([g.numpy().ravel() for g in gradients])[None]


def pairwise(function):
    """Of the boxes' cross product, one pair after another."""
    return lambda boxes1, boxes2: function(tensor(boxes1), tensor(boxes2)).reshape(-1, 1).numpy()


def loss(function):
    """Per pair the loss and its gradients with respect to both boxes, nine numbers."""

    def answer(boxes1, boxes2):
        boxes1, boxes2 = (tensor(boxes).requires_grad_() for boxes in (boxes1, boxes2))
        values = function(boxes1, boxes2)
        gradients = torch.autograd.grad(values.sum(), (boxes1, boxes2))
        columns = [values.detach()[:, None], *gradients]
        return np.concatenate([column.numpy() for column in columns], axis=1)

    return answer


def channels_first(array):
    return tensor(array).permute(0, 3, 1, 2).contiguous()


def channels_last(array):
    return array.detach().permute(0, 2, 3, 1).numpy()


def max_pool(x, pool_size, strides, padding):
    """The values, and behind them their indices."""
    assert padding == "valid"
    pooled, indices = functional.max_pool2d(
        channels_first(x), pool_size.tolist(), strides.tolist(), return_indices=True
    )
    return np.concatenate([channels_last(pooled), channels_last(indices)], axis=-1)


def max_pool_gradient(x, pool_size, strides, padding, gradient):
    x = channels_first(x).requires_grad_()
    pooled = functional.max_pool2d(x, pool_size.tolist(), strides.tolist())
    return channels_last(torch.autograd.grad(pooled, x, channels_first(gradient))[0])


def max_unpool(x, pool_size, strides, padding, gradient):
    """Of the values that `gradient` holds, to the places of the maxima of `x`."""
    windows = pool_size.tolist(), strides.tolist()
    _, indices = functional.max_pool2d(channels_first(x), *windows, return_indices=True)
    size = x.shape[1:3]
    return channels_last(
        functional.max_unpool2d(channels_first(gradient), indices, *windows, output_size=size)
    )


def project_masks(label_map, boxes, rows, output_size):
    masks = label_map == np.arange(1, rows.max() + 2)[:, None, None]
    arrays = tensor(masks.astype("uint8")), tensor(boxes), tensor(rows).long()
    return roi_heads.project_masks_on_boxes(*arrays, int(output_size)).numpy()


def paste_masks(masks, boxes, height, width):
    size = int(height), int(width)
    return (
        roi_heads.paste_masks_in_image(tensor(masks[:, None]), tensor(boxes), size)[:, 0] >= 0.5
    ).numpy()


if __name__ == "__main__":
    serve(
        {
            "torch.nn.functional.max_pool2d, indices": max_pool,
            "torch.nn.functional.max_pool2d, gradient": max_pool_gradient,
            "torch.nn.functional.max_unpool2d": max_unpool,
            "torchvision's paste_masks_in_image": paste_masks,
            "torchvision's project_masks_on_boxes": project_masks,
            "torchvision.ops.nms": nms,
            "torchvision.ops.batched_nms": batched_nms,
            "torchvision.ops.roi_align": roi_align,
            "torchvision.ops.roi_align, float16": roi_align,
            "torchvision.ops.roi_align, gradient": roi_align,
            "torchvision.ops.roi_pool": roi_pool,
            "torchvision.ops.roi_pool, float16": roi_pool,
            "torchvision.ops.roi_pool, gradient": roi_pool,
            "torch.nn.functional.conv2d": conv2d,
            "torch.nn.functional.conv2d, gradient": conv2d,
            "torchvision.ops.box_iou": pairwise(torchvision.ops.box_iou),
            "torchvision.ops.generalized_box_iou": pairwise(torchvision.ops.generalized_box_iou),
            "torchvision.ops.distance_box_iou": pairwise(torchvision.ops.distance_box_iou),
            "torchvision.ops.complete_box_iou": pairwise(torchvision.ops.complete_box_iou),
            "torchvision.ops.generalized_box_iou_loss and gradients": loss(
                torchvision.ops.generalized_box_iou_loss
            ),
            "torchvision.ops.distance_box_iou_loss and gradients": loss(
                torchvision.ops.distance_box_iou_loss
            ),
            "torchvision.ops.complete_box_iou_loss and gradients": loss(
                torchvision.ops.complete_box_iou_loss
            ),
        },
        modules=[torchvision, torch],
    )
