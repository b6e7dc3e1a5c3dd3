"""Xception-65 against timm's, at every output stride, with the same weights.

tests/golden/make_xception65.py wrote what timm says; both sides draw the weights by
tests/golden/seeded_weights.py.
"""

import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import Xception65
from kvision.weights.loading import load, torch_targets
from tests.golden.seeded_weights import seeded_state_dict

pytestmark = pytest.mark.conformance

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "xception65.npz")


def timm_module(layer_name):
    stem = re.fullmatch(r"stage1_(conv|norm)(\d)", layer_name)
    if stem:
        return f"stem.{int(stem[2]) - 1}.{ {'conv': 'conv', 'norm': 'bn'}[stem[1]] }"
    stage, block, role = re.fullmatch(r"stage(\d)_block(\d+)_(.*)", layer_name).groups()
    block = int(stage) - 2 + int(block) + (16 if stage == "5" else 0)
    if role.startswith("shortcut"):
        return f"blocks.{block}.shortcut.{'conv' if role.endswith('conv') else 'bn'}"
    kind, index, norm = re.fullmatch(r"(depthwise|pointwise|norm)(\d)(_norm)?", role).groups()
    kind = {"depthwise": "bn_dw" if norm else "conv_dw", "pointwise": "conv_pw", "norm": "bn_pw"}[
        kind
    ]
    return f"blocks.{block}.stack.conv{index}.{kind}"


@pytest.fixture(scope="module")
def state_dict():
    arrays = seeded_state_dict(json.loads(str(GOLDEN["shapes"])))
    return {name: array for name, array in arrays.items() if not name.startswith("head.")}


@pytest.mark.parametrize("output_stride", [32, 16, 8])
def test_equals_timm(output_stride, state_dict):
    model = Xception65(output_stride=output_stride)
    targets = {}
    for layer in model.layers:
        if layer.weights:
            targets |= torch_targets(layer, timm_module(layer.name))
    load("test", model, targets, state_dict, leftovers=set(), strict=True)
    for level, features in model(GOLDEN["image"], training=False).items():
        features = keras.ops.convert_to_numpy(features)
        expected = GOLDEN[f"stride{output_stride}/{level}"]
        assert features.shape == tuple(expected[:4])
        values = features.ravel()[:: int(expected[5])]
        scale = np.abs(expected[6:]).max()
        np.testing.assert_allclose(values, expected[6:], rtol=0, atol=1e-4 * scale)
        np.testing.assert_allclose(np.abs(features.astype("float64")).sum(), expected[4], rtol=1e-5)
