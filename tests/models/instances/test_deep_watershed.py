"""Deep watershed: its networks, its gates, its stages, its cut."""

import keras
import numpy as np
import pytest
from keras import ops

import kvision
from kvision.models.instances import DeepWatershed, choose_level_edges
from kvision.ops import watershed_targets
from kvision.testing.vjp import vjp
from kvision.training import Stage, fit_stages
from tests.contract.small_models import create_small

# Bai and Urtasun's networks, layer by layer.
DIRECTION_LAYERS = {
    "conv1_1": 2_368,
    "conv1_2": 36_928,
    "conv2_1": 73_856,
    "conv2_2": 147_584,
    "conv3_1": 295_168,
    "conv3_2": 590_080,
    "conv3_3": 590_080,
    "conv4_1": 1_180_160,
    "conv4_2": 2_359_808,
    "conv4_3": 2_359_808,
    "conv5_1": 2_359_808,
    "conv5_2": 2_359_808,
    "conv5_3": 2_359_808,
    "branch3_1": 1_638_656,
    "branch3_2": 65_792,
    "branch3_3": 65_792,
    "branch4_1": 6_554_112,
    "branch4_2": 262_656,
    "branch4_3": 131_328,
    "branch4_up": 1_048_576,
    "branch5_1": 6_554_112,
    "branch5_2": 262_656,
    "branch5_3": 131_328,
    "branch5_up": 4_194_304,
    "fuse1": 393_728,
    "fuse2": 262_656,
    "fuse3": 1_026,
    "direction": 256,
}
ENERGY_LAYERS = {
    "energy1_1": 3_264,
    "energy1_2": 204_928,
    "energy2_1": 409_728,
    "energy2_2": 409_728,
    "energy2_3": 409_728,
    "energy2_4": 409_728,
    "energy_fuse1": 16_512,
    "energy_fuse2": 2_064,
    "energy": 16_384,
}
SMALL = {
    "widths": (8, 8, 8, 8, 8),
    "strides": (1, 2, 2, 2),
    "branch_filters": 8,
    "fuse_filters": 8,
    "energy_widths": ((8,), (8, 8)),
    "energy_strides": (1, 2),
    "energy_filters": 8,
    "level_edges": (0, 1, 2, 3),
    "dropout": 0.0,
    "normalize_pixels": "imagenet",
    "cut": 0,
    "min_area": 0,
}


def small(num_classes=1, **arguments):
    return DeepWatershed(num_classes, **{**SMALL, **arguments})


def scenes(number=2, side=32, channels=3):
    """Noise, and two squares that touch in each image."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (number, side, side, channels)).astype("float32")
    ids = np.zeros((number, side, side, 1), "int32")
    ids[:, 4:16, 3:14] = 1
    ids[:, 4:16, 14:28] = 2
    return images, {"instance_ids": ids, "labels": np.tile([[0, 1, -1]], (number, 1))}


def _parameters(network):
    counts = {
        layer.name: sum(int(np.prod(v.shape)) for v in layer.trainable_variables)
        for layer in network.layers
    }
    return {name: count for name, count in counts.items() if count}


def _numpy(tensors):
    return keras.tree.map_structure(lambda x: np.array(ops.convert_to_numpy(x)), tensors)


def test_the_published_networks_layer_by_layer():
    with keras.StatelessScope(initialize_variables=False):
        model = kvision.create("deep_watershed")
    assert _parameters(model.direction_network) == DIRECTION_LAYERS
    assert _parameters(model.energy_network) == ENERGY_LAYERS
    assert sum(DIRECTION_LAYERS.values()) == 36_282_242
    assert sum(ENERGY_LAYERS.values()) == 1_882_064


def _gradients(model, images, targets):
    variables = model.trainable_variables

    def loss(values):
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            raw = model(images, training=True)
            return model.compute_loss(images, targets, raw, training=True)

    _, gradients = vjp(loss, [variable.value for variable in variables], np.float32(1.0))
    return {v.path: np.abs(g).max() for v, g in zip(variables, gradients, strict=True)}


@pytest.mark.parametrize("gate", ["head", "external", None])
@pytest.mark.parametrize("stage", DeepWatershed.stages)
def test_every_weight_of_the_stage_gets_a_gradient(stage, gate):
    images, targets = scenes(channels=4 if gate == "external" else 3)
    if gate == "external":
        images[..., 3:] = targets["instance_ids"] > 0
    keras.utils.set_random_seed(0)
    model = small(gate=gate, stage=stage, normalization="batch")
    model.compile(evaluator=())
    networks = {"direction": model.direction_network, "watershed": model.energy_network}
    assert [id(v) for v in model.trainable_variables] == [
        id(v) for v in networks.get(stage, model).trainable_variables
    ]
    gradients = _gradients(model, images, targets)
    largest = max(gradients.values())
    assert np.isfinite(largest)
    if (stage, gate) == ("both", "head"):
        # Of the semantic head, all learns; what the energy is made of may be cut off by its gate.
        gradients = {path: g for path, g in gradients.items() if "semantic" in path}
    assert {path for path, g in gradients.items() if not g > 1e-6 * largest} == set()


def test_a_stage_reports_its_own_losses():
    images, targets = scenes()
    reported = {}
    for stage in DeepWatershed.stages:
        model = small(stage=stage)
        model.compile("sgd", evaluator=())
        reported[stage] = set(model.evaluate(images, targets, verbose=0, return_dict=True))
    assert reported == {
        "direction": {"loss", "direction_loss", "semantic_loss"},
        "watershed": {"loss", "watershed_loss"},
        "both": {"loss", "semantic_loss", "watershed_loss"},
    }


def test_the_energy_network_learns_from_true_directions_alone():
    images, targets = scenes()
    model = small(stage="watershed")
    losses = []
    for batch in (images, 255 - images):
        raw = model(batch, training=True)
        assert raw == {}
        losses.append(_numpy(model.compute_losses(batch, targets, raw, True))["watershed_loss"])
    assert losses[0] == losses[1]
    # In evaluation the directions are its own.
    raw = model(images)
    assert set(raw) == {"direction", "semantic", "energy"}
    assert _numpy(model.compute_losses(images, targets, raw, False))["watershed_loss"] != losses[0]


def test_the_three_stages():
    """At a rate of 1e-2 the head may close the gate, or the last ReLU die: no energy moves."""
    images, targets = scenes()
    model = small()
    weights = [_numpy([v.value for v in model.variables])]

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            weights.append(_numpy([v.value for v in model.variables]))

    history = fit_stages(
        model,
        [Stage(name, 1, keras.optimizers.Adam(1e-3), {"evaluator": ()}) for name in model.stages],
        x=images,
        y=targets,
        verbose=0,
        callbacks=[Keep()],
    ).history
    places = [
        [i for i, v in enumerate(model.variables) if any(v is own for own in network.variables)]
        for network in (model.direction_network, model.energy_network)
    ]
    moved = [
        [any((before[i] != after[i]).any() for i in of_network) for of_network in places]
        for before, after in zip(weights, weights[1:], strict=False)
    ]
    assert moved == [[True, False], [False, True], [True, True]]
    assert history["stage"] == list(model.stages)
    assert np.isnan(history["watershed_loss"]).tolist() == [True, False, False]
    assert np.isnan(history["direction_loss"]).tolist() == [False, True, True]
    assert np.isfinite(history["loss"]).all()


def test_saving_keeps_the_stage(tmp_path):
    model = small(stage="direction", cut=[1], level_weights=[2, 1, 1, 1])
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.stage == "direction"
    assert [v.path for v in again.trainable_variables] == [
        v.path for v in model.trainable_variables
    ]
    again.stage = "both"
    assert len(again.trainable_variables) > len(model.trainable_variables)


def test_targets_follow_a_flip():
    _, targets = scenes()
    ids = targets["instance_ids"][..., 0]
    truth, mirrored = (_numpy(watershed_targets(x)) for x in (ids, ids[:, :, ::-1].copy()))
    np.testing.assert_allclose(
        mirrored["direction"][:, :, ::-1] * [-1, 1], truth["direction"], atol=1e-6
    )


def test_several_classes_by_labels_or_by_a_semantic_map():
    images, targets = scenes()
    ids, labels = targets["instance_ids"], targets["labels"]
    semantic = np.where(ids == 1, 1, np.where(ids == 2, 2, 0))
    model = small(2)
    raw = model(images)
    by_labels = _numpy(model.compute_losses(images, targets, raw, False))
    given = {"instance_ids": ids, "semantic": semantic}
    assert _numpy(model.compute_losses(images, given, raw, False)) == by_labels
    assert labels.shape == (2, 3)
    given["semantic"] = np.where(ids == 2, 255, semantic)  # the second one without truth
    assert _numpy(model.compute_losses(images, given, raw, False)) != by_labels


def _energy_of_the_worked_example():
    """Two instances of 7x5 pixels that touch, cut at level 1."""
    ids = np.zeros((1, 9, 12), "int32")
    ids[0, 1:8, 1:6], ids[0, 1:8, 6:11] = 1, 2
    levels = _numpy(watershed_targets(ids)["level"])
    assert levels[0, 4].tolist() == [0, 0, 1, 2, 1, 0, 0, 1, 2, 1, 0, 0]
    return levels, 5.0 * np.eye(16, dtype="float32")[levels]


def test_the_cut_of_the_worked_example():
    levels, energy = _energy_of_the_worked_example()
    raw = {"energy": energy}
    for cut, grow, areas in [(1, 0, [3, 3]), (1, 1, [15, 15]), (0, 0, [15, 15])]:
        model = DeepWatershed(gate=None, **_SHAPELESS, cut=cut, grow=grow, min_area=2)
        found = _numpy(model.decode(raw))
        assert np.bincount(found["instance_ids"].ravel())[1:].tolist() == areas
        assert found["labels"][0, :3].tolist() == [0, 0, -1]
        assert found["scores"][0, :3].tolist() == [1, 1, 0]
    assert levels.max() == 2


_SHAPELESS = {key: SMALL[key] for key in SMALL if key not in ("level_edges", "cut", "min_area")}


def test_the_head_gives_labels_and_scores():
    _, energy = _energy_of_the_worked_example()
    logits = np.zeros((1, 9, 12, 4), "float32")
    logits[..., 0] = 9  # background
    logits[0, 1:8, 1:6] = np.log([0.1, 0.1, 0.7, 0.1])  # class 1
    logits[0, 1:8, 6:11] = np.log([0.2, 0.1, 0.1, 0.6])  # class 2
    arguments = {**_SHAPELESS, "cut": (5, 1, 0), "min_area": 0, "grow": (0, 1, 0)}
    model = DeepWatershed(3, gate="head", **arguments)
    found = _numpy(model.decode({"energy": energy, "semantic": logits}))
    ids = found["instance_ids"]
    assert np.bincount(ids.ravel())[1:].tolist() == [15, 15]
    assert ids[0, 4, 3] == 1
    assert found["labels"][0, :3].tolist() == [1, 2, -1]
    np.testing.assert_allclose(found["scores"][0, :3], [0.7, 0.6, 0], rtol=1e-5)


def test_more_instances_than_rows():
    _, energy = _energy_of_the_worked_example()
    model = DeepWatershed(gate=None, **_SHAPELESS, cut=1, min_area=0, max_instances=1)
    found = _numpy(model.decode({"energy": energy}))
    assert found["instance_ids"].max() == 1
    assert found["labels"].tolist() == [[0]]


def test_an_external_gate():
    images, targets = scenes(channels=4)
    images[..., 3:] = targets["instance_ids"]
    model = small(2, gate="external", normalization=None)
    assert model._codes.tolist() == [0, -128, 128]
    raw = _numpy(model(images))
    outside = targets["instance_ids"][..., 0] == 0
    np.testing.assert_array_equal(raw["semantic"], targets["instance_ids"][..., 0])
    assert (raw["energy"][outside] == 0).all()
    # Pixels of the background are blanked.
    other = images.copy()
    other[outside, :3] = 255 - other[outside, :3]
    np.testing.assert_array_equal(_numpy(model(other)["direction"]), raw["direction"])
    # What is no class is background.
    other = images.copy()
    other[outside, 3] = 7
    np.testing.assert_array_equal(_numpy(model(other)["direction"]), raw["direction"])
    assert (_numpy(model.decode(raw))["instance_ids"][outside] == 0).mean() > 0.5
    with pytest.raises(ValueError, match="`export` needs a model whose gate is 'head' or None"):
        model.export("nowhere")


def test_codes_are_those_of_cityscapes():
    with keras.StatelessScope(initialize_variables=False):
        model = small(8, gate="external")
    assert model._codes.tolist() == [0, -128, -96, -64, -32, 32, 64, 96, 128]


def test_without_a_gate_the_background_is_learnt():
    images, targets = scenes()
    losses = []
    for weight in (0.0, 2.0):
        keras.utils.set_random_seed(0)
        model = small(gate=None, background_weight=weight)
        raw = model(images)
        assert set(raw) == {"direction", "energy"}
        energy = np.zeros(raw["energy"].shape, "float32")
        energy[..., 3] = 30 * (targets["instance_ids"][..., 0] == 0)  # wrong on the background
        raw = {**raw, "energy": ops.convert_to_tensor(energy)}
        losses.append(_numpy(model.compute_losses(images, targets, raw, False))["watershed_loss"])
    assert losses[1] > losses[0] + 1


def test_the_encoder_is_loaded():
    vgg = kvision.backbones.VGG((1, 1, 2, 1, 1), widths=SMALL["widths"])
    model = small(gate="external", depths=(1, 1, 2, 1, 1))
    model.load_encoder(vgg)
    for name in ("conv1_1", "conv3_2"):
        own = model.direction_network.get_layer(name).get_weights()
        theirs = vgg.get_layer(name.replace("conv", "stage").replace("_", "_conv")).get_weights()
        np.testing.assert_array_equal(own[0][:, :, : theirs[0].shape[2]], theirs[0])
        assert (own[0][:, :, theirs[0].shape[2] :] == 0).all()
        np.testing.assert_array_equal(own[1], theirs[1])
    with pytest.raises(ValueError, match="`vgg` must have depths"):
        small().load_encoder(vgg)


def test_refused_targets():
    images, targets = scenes()
    model = small(2)
    model.compile("sgd")
    with pytest.raises(ValueError, match=r"`instance_ids` and.*Received: \['labels'\]"):
        model.fit(images, {"labels": targets["labels"]})
    with pytest.raises(ValueError, match=r"Received: \['instance_ids'\]"):
        model.fit(images, {"instance_ids": targets["instance_ids"]})
    with pytest.raises(ValueError, match=r"`labels` must be in 0..1, .* or -1 for padding"):
        model.evaluate(images, {**targets, "labels": targets["labels"] + 2}, verbose=0)
    raw = model(images)
    with pytest.raises(ValueError, match="`instance_ids` must be as large as the images"):
        model.compute_losses(
            images, {**targets, "instance_ids": targets["instance_ids"][:, ::2]}, raw, False
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gate": "tail"}, "`gate` must be 'head', 'external' or None. Received: 'tail'"),
        ({"gate": None, "num_classes": 2}, "`gate` must be one that knows the classes"),
        ({"stage": "all"}, r"`stage` must be one of \('direction', 'watershed', 'both'\)"),
        ({"level_edges": (1, 2)}, r"`level_edges` must be .* first is 0. Received: \(1.0, 2.0\)"),
        ({"level_edges": (0, 2, 2)}, "`level_edges` must be at least two increasing numbers"),
        ({"energy_loss": "l2"}, "`energy_loss` must be one of"),
        ({"strides": (2, 2, 2)}, "`strides` must be 4 integers, each of them 1 or 2"),
        ({"energy_strides": (2, 3)}, "`energy_strides` must be 2 integers"),
        ({"level_weights": (1, 1)}, "`level_weights` must be 4 numbers"),
        ({"cut": (1, 1)}, "`cut` must be a number that is not negative, or one for each class"),
        ({"cut": "1"}, "`cut` must be a number that is not negative.*Received: '1'"),
        ({"grow": -1}, "`grow` must be a number that is not negative.*Received: -1"),
        ({"cut": 99}, "`cut` must be below the last level, [0-9]+. Received: 99"),
        ({"num_classes": "2"}, "`num_classes` must be an integer, at least 1. Received: '2'"),
        ({"grow_within_gate": True, "gate": None}, "`grow_within_gate` must be False without"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_level_edges_share_the_pixels_out():
    ids = np.zeros((1, 40, 60), "int32")
    ids[0, 5:16, 5:16], ids[0, 5:35, 20:50] = 1, 2
    edges = choose_level_edges(ids, 6)
    assert edges[0] == 0
    assert (np.diff(edges) >= 1).all()
    levels = _numpy(watershed_targets(ids, level_edges=edges)["level"])
    shares = np.bincount(levels[ids > 0]) / (ids > 0).sum()
    assert len(shares) == len(edges) == 6
    assert 0.1 < shares.min()
    assert shares.max() < 0.25
    # No deeper than there are pixels: a square of 3 has distances 1 and 2.
    tiny = np.zeros((8, 8, 8, 1), "int32")
    tiny[:, 2:5, 2:5] = 1
    assert choose_level_edges([tiny, tiny[:3]]) == (0.0, 1.0)
    with pytest.raises(ValueError, match="there is no object"):
        choose_level_edges(np.zeros((1, 4, 4), "int32"))
    with pytest.raises(ValueError, match="`num_levels` must be at least 2. Received: 1"):
        choose_level_edges(ids, 1)


def test_the_catalog_model_is_found_by_its_name():
    assert create_small("deep_watershed").task == "instances"
    assert "deep_watershed" in kvision.list_models("instances")
