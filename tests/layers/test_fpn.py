import json
from pathlib import Path

import keras
import numpy as np
import pytest

from kvision.backbones import ResNet18
from kvision.layers import FPN, FeatureSpec
from kvision.weights import load_torchvision
from kvision.weights.torchvision import _fpn_targets
from tests.golden.seeded_weights import seeded_state_dict

RESNET50_SPECS = {
    "P2": FeatureSpec(256, 4),
    "P3": FeatureSpec(512, 8),
    "P4": FeatureSpec(1024, 16),
    "P5": FeatureSpec(2048, 32),
}
SMALL_SPECS = {"P3": FeatureSpec(3, 8), "P4": FeatureSpec(5, 16)}


def small_inputs(sizes=((5, 6), (3, 3)), batch=2):
    rng = np.random.default_rng(0)
    return {
        name: rng.normal(size=(batch, *size, spec.channels)).astype("float32")
        for (name, spec), size in zip(SMALL_SPECS.items(), sizes, strict=True)
    }


def symbolic_inputs():
    return {
        name: keras.Input((None, None, spec.channels), name=name)
        for name, spec in SMALL_SPECS.items()
    }


def to_numpy(pyramid):
    return {name: keras.ops.convert_to_numpy(value) for name, value in pyramid.items()}


def test_parameters_of_resnet50():
    fpn = FPN(RESNET50_SPECS)
    fpn.build({name: (None, None, None, spec.channels) for name, spec in RESNET50_SPECS.items()})
    assert fpn.count_params() == 3_344_384
    assert sum(conv.count_params() for conv in fpn.laterals.values()) == 984_064


def test_every_variable_exists_after_build():
    fpn = FPN(SMALL_SPECS, filters=4)
    fpn.build({"P3": (None, None, None, 3), "P4": (None, None, None, 5)})
    count = len(fpn.weights)
    fpn(small_inputs())
    assert len(fpn.weights) == count == 8


def test_merges_by_hand():
    """With identity convolutions the finer output is the sum with the enlarged coarser map."""
    specs = {"P3": FeatureSpec(2, 8), "P4": FeatureSpec(2, 16)}
    fpn = FPN(specs, filters=2, num_extra_levels=2)
    coarse = np.arange(2 * 3 * 2, dtype="float32").reshape(1, 2, 3, 2)
    fine = 100 * np.arange(3 * 5 * 2, dtype="float32").reshape(1, 3, 5, 2)
    fpn.build({"P3": fine.shape, "P4": coarse.shape})
    for conv in fpn.laterals.values():
        conv.kernel.assign(np.eye(2).reshape(1, 1, 2, 2))
    for conv in fpn.outputs.values():
        conv.kernel.assign(np.pad(np.eye(2).reshape(1, 1, 2, 2), ((1, 1), (1, 1), (0, 0), (0, 0))))
    outputs = to_numpy(fpn({"P3": fine, "P4": coarse}))
    rows, columns = [0, 0, 1], [0, 0, 1, 1, 2]
    np.testing.assert_array_equal(outputs["P3"], fine + coarse[:, rows][:, :, columns])
    np.testing.assert_array_equal(outputs["P4"], coarse)
    np.testing.assert_array_equal(outputs["P5"], coarse[:, ::2, ::2])
    np.testing.assert_array_equal(outputs["P6"], coarse[:, :1, :1])


def test_equals_torchvision_at_odd_sizes():
    golden = np.load(Path(__file__).parents[1] / "golden" / "resnet.npz")
    backbone = ResNet18()
    load_torchvision(backbone, seeded_state_dict(json.loads(str(golden["resnet18/shapes"]))))
    fpn = FPN(backbone.feature_specs, filters=32)
    features = backbone(golden["image"])
    fpn.build({name: value.shape for name, value in features.items()})
    arrays = seeded_state_dict(json.loads(str(golden["fpn/shapes"])))
    for name, target in _fpn_targets(fpn, "fpn.").items():
        target.assign(arrays[name])
    for level, output in to_numpy(fpn(features)).items():
        expected = golden[f"fpn/{level}"]
        assert output.shape == tuple(expected[:4])
        np.testing.assert_allclose(output.ravel()[:: int(expected[5])], expected[6:], atol=2e-5)


def test_specs_and_shapes_agree_with_the_output():
    fpn = FPN(SMALL_SPECS, filters=4, num_extra_levels=2)
    inputs = small_inputs()
    outputs = fpn(inputs)
    assert list(fpn.feature_specs) == list(outputs) == ["P3", "P4", "P5", "P6"]
    assert fpn.feature_specs["P6"] == FeatureSpec(4, 64)
    shapes = fpn.compute_output_shape({name: value.shape for name, value in inputs.items()})
    assert shapes == {name: tuple(value.shape) for name, value in outputs.items()}


def test_dilated_levels_of_equal_stride():
    specs = {"P4": FeatureSpec(3, 16), "P5": FeatureSpec(3, 16)}
    fpn = FPN(specs, filters=4)
    outputs = fpn({name: np.ones((1, 5, 5, 3), "float32") for name in specs})
    assert {name: tuple(value.shape) for name, value in outputs.items()} == {
        "P4": (1, 5, 5, 4),
        "P5": (1, 5, 5, 4),
        "P6": (1, 3, 3, 4),
    }
    assert fpn.feature_specs["P6"].stride == 32


def test_symbolic_sizes():
    inputs = symbolic_inputs()
    fpn = FPN(SMALL_SPECS, filters=4)
    model = keras.Model(inputs, fpn(inputs))
    arrays = small_inputs()
    for name, value in to_numpy(model(arrays)).items():
        np.testing.assert_allclose(value, to_numpy(fpn(arrays))[name], atol=1e-6)


def test_config_and_saving(tmp_path):
    inputs = symbolic_inputs()
    model = keras.Model(inputs, FPN(SMALL_SPECS, filters=4, num_extra_levels=2)(inputs))
    model.save(tmp_path / "fpn.keras")
    loaded = keras.models.load_model(tmp_path / "fpn.keras")
    arrays = small_inputs()
    expected = to_numpy(model(arrays))
    for name, value in to_numpy(loaded(arrays)).items():
        np.testing.assert_array_equal(value, expected[name])


def test_mixed_precision():
    fpn = FPN(SMALL_SPECS, filters=4, dtype="mixed_bfloat16")
    outputs = fpn(small_inputs())
    assert {keras.backend.standardize_dtype(value.dtype) for value in outputs.values()} == {
        "bfloat16"
    }
    assert {weight.dtype for weight in fpn.weights} == {"float32"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"feature_specs": {}}, "at least one level"),
        ({"feature_specs": {"C2": (3, 4)}}, '"P<number>"'),
        ({"feature_specs": {"P3": (3, 8), "P4": (3, 12)}}, "multiple"),
        ({"feature_specs": SMALL_SPECS, "filters": 0}, "positive"),
        ({"feature_specs": SMALL_SPECS, "num_extra_levels": -1}, "at least 0"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FPN(**arguments)


def test_refuses_other_inputs():
    inputs = small_inputs()
    with pytest.raises(ValueError, match="Missing: \\['P4'\\]"):
        FPN(SMALL_SPECS)({"P3": inputs["P3"]})
    with pytest.raises(ValueError, match="P4 must have 5 channels"):
        FPN(SMALL_SPECS)({"P3": inputs["P3"], "P4": inputs["P3"]})
