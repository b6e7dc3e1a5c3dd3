"""Golden values and gradients of PyTorch's and torchvision's losses of label maps.

Run in an environment with torch and torchvision: `python tests/golden/make_pixel_losses.py`.
Arrays are channels last. Hard-pixel mining is written as in HRNet's `OhemCrossEntropy` and in
TorchSeg's `ProbOhemCrossEntropy2d` (both MIT), which PyTorch itself does not have.
"""

from pathlib import Path

import numpy as np
import torch
import torchvision
from torch.nn import functional

SHAPE, CLASSES, IGNORED = (3, 7, 5), 4, 255
CLASS_WEIGHT = (0.5, 2.0, 1.25, 4.0)
REDUCTIONS = ("mean", "sum", "none")
OHEM = ((0.7, 10), (0.3, 10), (0.05, 30), (0.9, 1))
FOCAL = ((2.0, 0.25), (0.5, 0.6), (0.0, -1))


def hrnet_ohem(logits, labels, threshold, min_kept):
    losses = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    losses = losses.contiguous().view(-1)
    mask = labels.contiguous().view(-1) != IGNORED
    targets = torch.where(labels == IGNORED, 0, labels)
    predicted = functional.softmax(logits, dim=1).gather(1, targets.unsqueeze(1))
    predicted, order = predicted.contiguous().view(-1)[mask].contiguous().sort()
    least = predicted[min(min_kept, predicted.numel() - 1)]
    threshold = max(least, threshold)
    return losses[mask][order][predicted < threshold].mean()


def torchseg_ohem(logits, labels, threshold, min_kept):
    classes = logits.size(1)
    target = labels.view(-1)
    valid = target.ne(IGNORED)
    target = target * valid.long()
    probability = functional.softmax(logits, dim=1).transpose(0, 1).reshape(classes, -1)
    probability = probability.masked_fill(~valid, 1)
    mask_probability = probability[target, torch.arange(len(target))]
    order = mask_probability.argsort()
    at_most = mask_probability[order[min(len(order), min_kept) - 1]]
    if at_most > threshold:
        threshold = at_most
    kept = mask_probability.le(threshold)
    target = target * kept.long()
    target = target.masked_fill(~(valid * kept), IGNORED).view(labels.shape)
    return functional.cross_entropy(logits, target, ignore_index=IGNORED)


def main():
    rng = np.random.default_rng(8)
    logits = rng.normal(0, 2, (*SHAPE, CLASSES)).astype("float32")
    labels = rng.integers(0, CLASSES, SHAPE)
    labels[rng.random(SHAPE) < 0.2] = IGNORED
    binary = rng.integers(0, 2, (*SHAPE, CLASSES))
    arrays = {
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "logits": logits,
        "labels": labels.astype("uint8"),
        "binary": binary.astype("uint8"),
    }

    def store(name, loss_of):
        inputs = torch.tensor(logits.transpose(0, 3, 1, 2).copy(), requires_grad=True)
        loss = loss_of(inputs)
        loss.sum().backward()
        value = loss.detach().numpy()
        arrays[name] = value.transpose(0, 2, 3, 1) if value.ndim == 4 else value
        arrays[f"{name}/gradient"] = inputs.grad.numpy().transpose(0, 2, 3, 1)

    classes = torch.tensor(labels)
    truth = torch.tensor(binary.transpose(0, 3, 1, 2).astype("float32"))
    weight = torch.tensor(CLASS_WEIGHT)
    for reduction in REDUCTIONS:
        for name, weights in (("plain", None), ("weighted", weight)):
            store(
                f"cross_entropy/{name}/{reduction}",
                lambda x, w=weights, r=reduction: functional.cross_entropy(
                    x, classes, weight=w, ignore_index=IGNORED, reduction=r
                ),
            )
        store(
            f"binary/{reduction}",
            lambda x, r=reduction: functional.binary_cross_entropy_with_logits(
                x, truth, weight=weight[:, None, None], reduction=r
            ),
        )
    for gamma, alpha in FOCAL:
        store(
            f"focal/{gamma}/{alpha}",
            lambda x, g=gamma, a=alpha: torchvision.ops.sigmoid_focal_loss(
                x, truth, alpha=a, gamma=g, reduction="none"
            ),
        )
    for threshold, min_kept in OHEM:
        for name, function in (("hrnet", hrnet_ohem), ("torchseg", torchseg_ohem)):
            store(
                f"{name}/{threshold}/{min_kept}",
                lambda x, f=function, t=threshold, m=min_kept: f(x, classes, t, m),
            )
    np.savez_compressed(Path(__file__).with_name("pixel_losses.npz"), **arrays)


if __name__ == "__main__":
    main()
