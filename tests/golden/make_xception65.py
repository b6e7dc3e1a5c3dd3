"""Golden features of timm's Xception-65, the aligned network of DeepLab, on an image of odd size.

Run in an environment with torch and timm, from the project's root:

    python -m tests.golden.make_xception65
"""

import json
from pathlib import Path

import numpy as np
import timm
import torch

from tests.golden.seeded_weights import seeded_state_dict

LEVELS = {
    "P1": "blocks.0.stack.conv2",
    "P2": "blocks.1.stack.conv2",
    "P3": "blocks.2.stack.conv2",
    "P4": "blocks.19.stack.conv2",
    "P5": "blocks.20",
}


@torch.no_grad()
def main():
    image = np.random.default_rng(0).integers(0, 256, (1, 97, 66, 3), dtype="uint8")
    x = torch.from_numpy(image).permute(0, 3, 1, 2) / 127.5 - 1
    golden = {"image": image, "torch": torch.__version__, "timm": timm.__version__}
    for output_stride in (32, 16, 8):
        model = timm.create_model("xception65", output_stride=output_stride).eval()
        shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
        arrays = {key: torch.from_numpy(value) for key, value in seeded_state_dict(shapes).items()}
        missing = model.load_state_dict(arrays, strict=False).missing_keys
        assert all(key.endswith("num_batches_tracked") for key in missing)
        golden["shapes"] = json.dumps(shapes)
        for level, module in LEVELS.items():
            model.get_submodule(module).register_forward_hook(_keep(golden, output_stride, level))
        model(x)
    np.savez_compressed(Path(__file__).parent / "xception65.npz", **golden)


def _keep(golden, output_stride, level):
    def hook(module, inputs, output):
        golden[f"stride{output_stride}/{level}"] = _sample(output)

    return hook


def _sample(features):
    """Shape, sum of magnitudes, step and about 700 values of a map, channels last."""
    array = features.permute(0, 2, 3, 1).contiguous().numpy()
    step = max(1, array.size // 700) | 1
    magnitude = np.abs(array.astype("float64")).sum()
    return np.concatenate([array.shape, [magnitude, step], array.ravel()[::step]])


if __name__ == "__main__":
    main()
