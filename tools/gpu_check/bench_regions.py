"""Times of `roi_align` and `roi_pool` against torchvision and cuDNN."""

import torch
import torchvision  # noqa: F401, registers its operators

from kvision.ops import native

BINS, RATIO = 7, 2
STRIDES = (4, 8, 16, 32)


class _Work:
    """A pyramid of an image of 800 x 1344 and proposals on it.

    Args:
        device: `"cuda"`, or `"cpu"` where everything is small.
        dtype: Of the features.
        strides: Of the levels.
    """

    def __init__(self, device, dtype, strides=STRIDES, channels=256):
        full = device == "cuda"
        self.batch, self.number, self.channels = (8, 1000, channels) if full else (2, 20, 4)
        self.height, self.width = (800, 1344) if full else (80, 134)
        self.strides, self.dtype = strides, dtype
        self.maps = [
            torch.randn(self.batch, self.height // s, self.width // s, self.channels, device=device)
            .to(dtype)
            for s in strides
        ]  # fmt: skip
        self.scales = [1 / s for s in strides]
        # Different proposals in turn, of the usual sizes; the maps are larger than any cache.
        self.sets = [self._proposals(device) for _ in range(3)]

    def _proposals(self, device):
        shape = self.batch, self.number
        side = 16 * (self.height / 18) ** torch.rand(shape, device=device)
        aspect = torch.exp((torch.rand(shape, device=device) - 0.5) * 1.4).sqrt()
        half = torch.stack([side * aspect, side / aspect], -1) / 2
        limit = torch.tensor([self.width, self.height], device=device)
        centre = torch.rand(*shape, 2, device=device) * limit
        corners = (centre - half).clamp(min=0), torch.minimum(centre + half, limit)
        boxes = torch.cat(corners, -1)
        area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
        level = torch.floor(4 + torch.log2(area.sqrt() / 224 + 1e-6)).clamp(2, 5) - 2
        return boxes, (level if len(self.strides) > 1 else 0 * level).int()

    @property
    def size(self):
        levels = f"{len(self.strides)} levels" if len(self.strides) > 1 else f"1/{self.strides[0]}"
        return f"{self.batch} x {self.number} boxes, {levels}, {self.channels} channels"

    def bytes_moved(self, extra=0):
        """The maps and the bins once; `extra` bytes for every bin."""
        bins = self.batch * self.number * BINS * BINS * self.channels
        element = self.maps[0].element_size()
        return element * (sum(m.numel() for m in self.maps) + bins) + extra * bins

    def by_level(self, boxes, levels, dtype):
        """The boxes of each level with the index of their image before them, for torchvision."""
        index = torch.arange(self.batch, device=boxes.device).float()[:, None, None]
        rows = torch.cat([index.expand(*boxes.shape[:2], 1), boxes], -1).view(-1, 5).to(dtype)
        return [rows[levels.view(-1) == i] for i in range(len(self.maps))]

    def channels_first(self, dtype):
        """The maps for the others."""
        return [m.permute(0, 3, 1, 2).to(dtype).contiguous() for m in self.maps]


def _name(dtype):
    return str(dtype).removeprefix("torch.")


def _roi_align(table, clock, device, dtype, strides=STRIDES):
    work = _Work(device, dtype, strides)
    # torchvision has no bfloat16 here: beside it stands its float16.
    theirs = torch.float16 if dtype == torch.bfloat16 else dtype
    peer = "torchvision" + (" in float16" if theirs != dtype else "")
    maps = work.channels_first(theirs)
    rows = [(work.by_level(*one, theirs),) for one in work.sets]
    sampling = {"spatial_scales": work.scales, "sampling_ratio": RATIO, "aligned": True}

    def forward(boxes, levels):
        return native.call(
            "roi_align", work.maps, boxes, levels,
            output_height=BINS, output_width=BINS, **sampling,
        )  # fmt: skip

    def their_forward(rows):
        return [
            torch.ops.torchvision.roi_align(m, r, scale, BINS, BINS, RATIO, True)
            for m, r, scale in zip(maps, rows, work.scales, strict=True)
        ]

    moved = work.bytes_moved()
    times = clock.milliseconds(forward, work.sets), clock.milliseconds(their_forward, rows)
    table.row("roi_align", work.size, _name(dtype), times[0], peer, times[1], moved)

    output = forward(*work.sets[0])
    upstream = torch.randn_like(output)
    flat = upstream.view(-1, *output.shape[2:]).permute(0, 3, 1, 2)
    levels = work.sets[0][1].view(-1)
    theirs_upstream = [flat[levels == i].to(theirs).contiguous() for i in range(len(maps))]
    shapes = [list(m.shape) for m in work.maps]

    def backward(boxes, levels):
        return native.call(
            "roi_align_gradient", upstream, boxes, levels, feature_shapes=shapes, **sampling
        )

    def their_backward(rows):
        return [
            torch.ops.torchvision._roi_align_backward(
                g, r, scale, BINS, BINS, *m.shape, RATIO, True
            )
            for g, r, scale, m in zip(theirs_upstream, rows, work.scales, maps, strict=True)
        ]

    times = clock.milliseconds(backward, work.sets), clock.milliseconds(their_backward, rows[:1])
    table.row("roi_align gradient", work.size, _name(dtype), times[0], peer, times[1], moved)
    return work, (forward, backward), maps[0]


def roi_align(table, clock, device):
    """The whole pyramid in float32."""
    _roi_align(table, clock, device, torch.float32)


def roi_align_in_bfloat16(table, clock, device):
    """The whole pyramid in bfloat16."""
    _roi_align(table, clock, device, torch.bfloat16)


def roi_align_on_one_level(table, clock, device):
    """One level, where a spatial transformer of cuDNN with an average does nearly the same."""
    work, (forward, backward), features = _roi_align(table, clock, device, torch.float32, (8,))
    grid = _grid(work.sets[0][0] / 8, features.shape[2:])
    peer = "cuDNN's spatial transformer, averaged"

    def transform(features):
        if device == "cuda":
            samples = torch.cudnn_grid_sampler(features, grid)
        else:
            samples = torch.nn.functional.grid_sample(features, grid, align_corners=True)
        return torch.nn.functional.avg_pool2d(samples, RATIO)

    ours, theirs = (
        clock.milliseconds(forward, work.sets),
        clock.milliseconds(transform, [(features,)]),
    )
    table.row("roi_align", work.size, "float32", ours, peer, theirs, work.bytes_moved())
    # The definitions agree where all samples of a bin lie on the map, which is nearly everywhere.
    found = transform(features).view(work.batch, work.channels, work.number, BINS, BINS)
    difference = (found - forward(*work.sets[0]).permute(0, 4, 1, 2, 3)).abs().flatten()
    print(f"median difference from the spatial transformer {difference[::97].median():.1e}")
    del found, difference
    with torch.enable_grad():
        watched = features.clone().requires_grad_()
        output = transform(watched)
    upstream = torch.randn_like(output)

    def their_backward():
        return torch.autograd.grad(output, watched, upstream, retain_graph=True)

    ours, theirs = clock.milliseconds(backward, work.sets), clock.milliseconds(their_backward)
    table.row("roi_align gradient", work.size, "float32", ours, peer, theirs, work.bytes_moved())


def _grid(boxes, size):
    """Where the samples lie, from -1 to 1 between the centres of the outermost cells."""
    samples = BINS * RATIO
    place = (torch.arange(samples, device=boxes.device) + 0.5) / samples
    low, high = boxes[..., :2, None] - 0.5, boxes[..., 2:, None] - 0.5
    at = low + (high - low) * place  # (batch, number, xy, samples)
    height, width = size
    x, y = 2 * at[:, :, 0] / (width - 1) - 1, 2 * at[:, :, 1] / (height - 1) - 1
    shape = (*boxes.shape[:2], samples, samples)
    grid = torch.stack([x[:, :, None].expand(shape), y[..., None].expand(shape)], -1)
    return grid.reshape(len(boxes), -1, samples, 2).contiguous()


def roi_pool(table, clock, device):
    """One level of 1/16, as in Fast R-CNN."""
    for dtype in (torch.float32, torch.bfloat16):
        work = _Work(device, dtype, (16,), 512)
        theirs = torch.float16 if dtype == torch.bfloat16 else dtype
        peer = "torchvision" + (" in float16" if theirs != dtype else "")
        (features,) = work.channels_first(theirs)
        rows = [tuple(work.by_level(*one, theirs)) for one in work.sets]
        boxes = [one[:1] for one in work.sets]
        scale = work.scales[0]

        def forward(boxes, work=work, scale=scale):
            return native.call(
                "roi_pool", work.maps[0], boxes,
                spatial_scale=scale, output_height=BINS, output_width=BINS,
            )  # fmt: skip

        def their_forward(rows, features=features, scale=scale):
            return torch.ops.torchvision.roi_pool(features, rows, scale, BINS, BINS)

        moved = work.bytes_moved(extra=4)  # where each maximum lay
        times = clock.milliseconds(forward, boxes), clock.milliseconds(their_forward, rows)
        table.row("roi_pool", work.size, _name(dtype), times[0], peer, times[1], moved)
        output, argmax = forward(*boxes[0])
        upstream = torch.randn_like(output)
        flat = upstream.view(-1, *output.shape[2:]).permute(0, 3, 1, 2).to(theirs).contiguous()
        their_argmax = their_forward(*rows[0])[1]

        def backward(upstream=upstream, argmax=argmax, boxes=boxes[0][0], work=work, scale=scale):
            return native.call(
                "roi_pool_gradient", upstream, argmax, boxes,
                spatial_scale=scale, feature_shape=list(work.maps[0].shape),
            )  # fmt: skip

        def their_backward(
            flat=flat, rows=rows[0][0], argmax=their_argmax, features=features, scale=scale
        ):
            return torch.ops.torchvision._roi_pool_backward(
                flat, rows, argmax, scale, BINS, BINS, *features.shape
            )

        times = clock.milliseconds(backward), clock.milliseconds(their_backward)
        table.row("roi_pool gradient", work.size, _name(dtype), times[0], peer, times[1], moved)


MEASURES = (roi_align, roi_align_in_bfloat16, roi_align_on_one_level, roi_pool)
