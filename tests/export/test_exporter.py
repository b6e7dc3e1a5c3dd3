import keras
import numpy as np
import pytest

from kvision.boxes.resize import resize_images, resized_size, restore_boxes
from kvision.export import answers, endpoints, exporter, parity, saved_model
from kvision.export.answers import ClassScores, Detections, LabelMaps


@pytest.fixture(scope="module")
def detector(tf, patch_detector):
    return patch_detector(image_size=(64, 80), class_names=["pea", "très chère", "b c"])


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model"
    return saved_model(detector, path, "portable", verbose=False)


@pytest.fixture(scope="module")
def signatures(tf, exported):
    loaded = tf.saved_model.load(str(exported.path))
    return loaded.signatures


@pytest.fixture
def same_process(tf, monkeypatch):
    """The exporter's reload without a new process, for tests that are about something else."""

    def run(path, requests, op_library=None):
        signatures = tf.saved_model.load(str(path)).signatures
        arguments = {"encoded": "encoded_images"}
        return [
            numpy_of(signatures[name](**{arguments.get(name, "images"): tf.constant(value)}))
            for name, value in requests
        ]

    monkeypatch.setattr(parity, "run_in_fresh_process", run)


def numpy_of(outputs):
    return {name: value.numpy() for name, value in outputs.items()}


def png(tf, image):
    return tf.io.encode_png(image).numpy()


def test_the_report_says_what_was_compared(exported):
    assert exported.compared > 20
    assert 0 <= exported.differences["boxes"] <= 1e-3
    assert 0 <= exported.differences["scores"] <= 1e-5
    assert sorted(entry.name for entry in exported.path.parent.iterdir()) == ["model"]


def test_the_users_own_images_are_compared(detector, pictures, same_process, tmp_path, capsys):
    report = saved_model(detector, tmp_path / "model", "portable", check_images=pictures)
    alone = saved_model(detector, tmp_path / "other", "portable", check_images=pictures[:1])
    assert report.compared > alone.compared
    assert f"the live model's {alone.compared} detections" in capsys.readouterr().out


def test_a_comparison_of_nothing_is_told(patch_detector, same_process, tmp_path):
    model = patch_detector()
    model.set_weights([np.zeros_like(value) for value in model.get_weights()])  # all scores 0.5
    with pytest.warns(RuntimeWarning, match="no detections to compare.*`check_images`"):
        report = saved_model(model, tmp_path / "model", "portable", verbose=False)
    assert report.compared == 0
    assert report.path.exists()


def test_signatures_have_the_documented_names_and_types(tf, signatures):
    assert set(signatures) == {"serving_default", "float", "encoded", "class_names"}
    inputs = {name: s.structured_input_signature[1] for name, s in signatures.items()}
    assert inputs["serving_default"]["images"].dtype == tf.uint8
    assert inputs["float"]["images"].dtype == tf.float32
    assert inputs["encoded"]["encoded_images"].dtype == tf.string
    assert inputs["class_names"] == {}
    types = {"boxes": "float32", "scores": "float32", "labels": "int32", "num_detections": "int32"}
    for name in ("serving_default", "float", "encoded"):
        outputs = signatures[name].structured_outputs
        assert {key: spec.dtype.name for key, spec in outputs.items()} == types


def test_class_names_can_be_read(signatures, patch_detector):
    names = signatures["class_names"]()["class_names"].numpy()
    assert [name.decode() for name in names] == ["pea", "très chère", "b c"]
    unnamed = endpoints.Endpoints(patch_detector()).class_names()["class_names"]
    assert unnamed.numpy().tolist() == [b"0", b"1", b"2"]


@pytest.mark.parametrize("policy", ["letterbox", "stretch"])
def test_boxes_are_in_each_images_own_pixels(tf, patch_detector, pictures, policy):
    """Against the model called by hand on the reader's resized image."""
    model = patch_detector(image_size=(64, 80), resize_policy=policy)
    served = endpoints.Endpoints(model).predict_encoded(tf.constant([png(tf, p) for p in pictures]))
    for item, picture in enumerate(pictures):
        image = resize_images(tf.constant(picture), (64, 80), policy)
        expected = model.decode(model(tf.cast(image, "float32")[None]))
        boxes = restore_boxes(expected["boxes"][0], picture.shape[:2], (64, 80), policy)
        np.testing.assert_allclose(served["boxes"][item], boxes, atol=1e-4)
        np.testing.assert_allclose(served["scores"][item], expected["scores"][0], atol=1e-6)
        np.testing.assert_array_equal(served["labels"][item], expected["labels"][0])
        assert expected["num_detections"][0] > 0


def test_every_signature_gives_the_live_models_detections(tf, detector, signatures, pictures):
    live = endpoints.Endpoints(detector)
    strings = tf.constant([png(tf, picture) for picture in pictures])
    count = 0
    for function, name, argument, value in [
        (live.predict, "serving_default", "images", tf.constant(pictures[0][None])),
        (live.predict, "float", "images", tf.constant(pictures[1][None], "float32")),
        (live.predict_encoded, "encoded", "encoded_images", strings),
    ]:
        expected = numpy_of(function(value))
        received = numpy_of(signatures[name](**{argument: value}))
        count += Detections.compare(expected, received)[0]
    assert count > 20


def test_an_image_of_the_models_size_is_answered_alike_by_every_signature(tf, signatures):
    image = np.random.default_rng(2).integers(0, 256, (64, 80, 3), "uint8")
    given = [
        signatures["serving_default"](images=tf.constant(image[None])),
        signatures["float"](images=tf.constant(image[None], "float32")),
        signatures["encoded"](encoded_images=tf.constant([png(tf, image)])),
    ]
    for answer in given[1:]:
        Detections.compare(numpy_of(given[0]), numpy_of(answer))


def test_damaged_items_get_minus_one_and_the_others_their_answer(tf, signatures, pictures):
    encoded = signatures["encoded"]
    good = [
        png(tf, pictures[0]),
        tf.io.encode_jpeg(pictures[1]).numpy(),
        png(tf, pictures[2]),
    ]
    strings = [
        b"",
        good[0],
        b"some text",
        good[1],
        good[1][: len(good[1]) // 2],
        good[2],
        good[2][:-9],
    ]
    alone = numpy_of(encoded(encoded_images=tf.constant(good)))
    among = numpy_of(encoded(encoded_images=tf.constant(strings)))
    assert among["num_detections"][[0, 2, 4, 6]].tolist() == [-1] * 4
    assert (among["labels"][[0, 2, 4, 6]] == -1).all()
    assert not among["scores"][[0, 2, 4, 6]].any()
    assert not among["boxes"][[0, 2, 4, 6]].any()
    assert (alone["num_detections"] > 0).all()
    for name in Detections.damaged:
        np.testing.assert_allclose(among[name][[1, 3, 5]], alone[name], atol=1e-5)


def test_damage_between_the_markers_fails_the_request(tf, signatures, pictures):
    string = bytearray(png(tf, pictures[0]))
    string[40:60] = bytes(20)
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["encoded"](encoded_images=tf.constant([bytes(string)]))


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_batch_sizes(tf, detector, pictures, batch):
    live = endpoints.Endpoints(detector)
    encoded = tf.function(live.predict_encoded, input_signature=[tf.TensorSpec((None,), "string")])
    detect = tf.function(
        live.predict, input_signature=[tf.TensorSpec((None, None, None, 3), "uint8")]
    )
    strings = [png(tf, picture) for picture in pictures[:batch]]
    for answer in (
        encoded(tf.constant(strings, "string", (batch,))),
        detect(tf.zeros((batch, 40, 56, 3), "uint8")),
    ):
        assert answer["boxes"].shape == (batch, 12, 4)
        assert answer["num_detections"].shape == (batch,)


def test_the_weights_stand_in_the_saved_model(tf, detector, signatures, pictures):
    image = tf.constant(pictures[0][None])
    before = numpy_of(signatures["serving_default"](images=image))
    kept = detector.get_weights()
    detector.set_weights([np.zeros_like(value) for value in kept])
    after = numpy_of(signatures["serving_default"](images=image))
    detector.set_weights(kept)
    np.testing.assert_array_equal(before["scores"], after["scores"])


class TestRefusals:
    def test_a_model_that_changes_between_live_and_graph(
        self, detector, monkeypatch, tmp_path, same_process
    ):
        decode = detector.decode

        def decode_otherwise_in_graphs(raw):
            from tensorflow import executing_eagerly

            detections = decode(raw)
            shift = 0.0 if executing_eagerly() else 2e-3
            return {**detections, "boxes": detections["boxes"] + shift}

        monkeypatch.setattr(detector, "decode", decode_otherwise_in_graphs)
        target = tmp_path / "model"
        with pytest.raises(RuntimeError, match="`serving_default`: image 0: no partner within"):
            saved_model(detector, target, "portable")
        assert list(tmp_path.iterdir()) == []

    def test_a_failed_export_leaves_the_old_one(
        self, detector, monkeypatch, same_process, tmp_path
    ):
        target = tmp_path / "model"
        saved_model(detector, target, "portable", verbose=False)
        before = (target / "saved_model.pb").read_bytes()
        monkeypatch.setattr(answers, "SCORE_TOLERANCE", -1.0)
        with pytest.raises(RuntimeError, match="nothing was written"):
            saved_model(detector, target, "portable", overwrite=True)
        assert (target / "saved_model.pb").read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    def test_a_process_that_fails(self, tf, tmp_path):
        (tmp_path / "saved_model.pb").write_bytes(b"broken")
        with pytest.raises(RuntimeError, match="fresh process.*exit code 1(.|\n)*saved_model.pb"):
            parity.run_in_fresh_process(tmp_path, [("float", np.zeros((1, 8, 8, 3), "float32"))])

    def test_an_existing_path(self, detector, exported, tmp_path):
        with pytest.raises(FileExistsError, match="overwrite=True"):
            saved_model(detector, exported.path, "portable")
        (tmp_path / "thesis.txt").write_text("dear")
        with pytest.raises(FileExistsError, match="it is no SavedModel"):
            saved_model(detector, tmp_path, "portable", overwrite=True)
        assert (tmp_path / "thesis.txt").read_text() == "dear"

    def test_overwrite_replaces(self, detector, same_process, tmp_path, capsys):
        for _ in range(2):
            saved_model(detector, tmp_path / "model", "portable", overwrite=True)
        assert "scores within" in capsys.readouterr().out
        assert [entry.name for entry in tmp_path.iterdir()] == ["model"]

    def test_arguments_without_meaning(self, tf, detector, tmp_path):
        with pytest.raises(ValueError, match="'native' or 'portable'.*'fast'"):
            saved_model(detector, tmp_path / "model", "fast")
        with pytest.raises(
            TypeError, match="Received: Sequential, without `task`, `decode`, `image_size`"
        ):
            saved_model(keras.Sequential(), tmp_path / "model")

    @pytest.mark.parametrize(
        ("images", "received"),
        [([], "none"), ([np.zeros((4, 4, 3))], r"float64 \(4, 4, 3\)"), ([[0]], r"None \(\)")],
    )
    def test_check_images_that_are_no_images(self, tf, detector, tmp_path, images, received):
        with pytest.raises(ValueError, match=f"`check_images` must be uint8.*{received}"):
            saved_model(detector, tmp_path / "model", "portable", check_images=images)

    def test_a_model_without_an_image_size(self, tf, patch_detector, tmp_path):
        with pytest.raises(ValueError, match="PatchDetector has no `image_size`.*model.image_size"):
            saved_model(patch_detector(image_size=None), tmp_path / "model", "portable")
        assert list(tmp_path.iterdir()) == []

    def test_python_ops_in_the_graph(self, tf, detector, monkeypatch, tmp_path):
        decode = detector.decode

        def decode_in_python(raw):
            detections = decode(raw)
            scores = tf.numpy_function(lambda x: x, [detections["scores"]], tf.float32)
            return {**detections, "scores": tf.ensure_shape(scores, detections["scores"].shape)}

        monkeypatch.setattr(detector, "decode", decode_in_python)
        with pytest.raises(RuntimeError, match="the portable graph holds PyFunc"):
            saved_model(detector, tmp_path / "model", "portable")

    def test_native_ops_in_a_portable_graph(self):
        with pytest.raises(RuntimeError, match="portable graph holds Kvision>Nms, which no stock"):
            exporter._check_ops({"Conv2D", "Kvision>Nms"}, "portable")
        exporter._check_ops({"Conv2D", "Kvision>Nms"}, "native")

    def test_another_backend(self, monkeypatch, tmp_path):
        monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
        with pytest.raises(RuntimeError, match="KERAS_BACKEND=tensorflow"):
            saved_model(keras.Sequential(), tmp_path / "model")


class TestComparison:
    def batch(self, scores=(0.9, 0.5, 0.5), labels=(0, 1, 1), shift=0.0, number=3):
        boxes = np.arange(12, dtype="float32").reshape(1, 3, 4) + np.float32(shift)
        return {
            "boxes": boxes,
            "scores": np.array([scores], "float32"),
            "labels": np.array([labels]),
            "num_detections": np.array([number]),
        }

    def test_equal_batches(self):
        assert Detections.compare(self.batch(), self.batch()) == (3, {"boxes": 0.0, "scores": 0.0})

    def test_equal_scores_may_stand_in_either_order(self):
        swapped = {k: v[:, [0, 2, 1]] if v.ndim > 1 else v for k, v in self.batch().items()}
        assert Detections.compare(self.batch(), swapped) == (3, {"boxes": 0.0, "scores": 0.0})

    def test_one_partner_serves_one_detection(self):
        twin = self.batch()
        twin["boxes"][0, 2] = twin["boxes"][0, 1]
        with pytest.raises(ValueError, match="no partner"):
            Detections.compare(twin, self.batch())

    @pytest.mark.parametrize(
        ("changed", "said"),
        [
            ({"scores": (0.9, 0.5, 0.50002)}, "detection 2"),
            ({"labels": (0, 1, 2)}, "stands label 2"),
            ({"shift": 2e-3}, "detection 0"),
            ({"number": 2}, r"num_detections are \[2\] where \[3\]"),
            ({"number": -1}, r"num_detections are \[-1\]"),
        ],
    )
    def test_differences_are_told(self, changed, said):
        with pytest.raises(ValueError, match=said):
            Detections.compare(self.batch(), self.batch(**changed))

    def test_damaged_items_compare_equal(self):
        damaged = self.batch(number=-1)
        assert Detections.compare(damaged, damaged) == (0, {"boxes": 0.0, "scores": 0.0})


class TestLabelMaps:
    """Against the definition: the model's logits, cut to the picture, resized to it."""

    @pytest.mark.parametrize("policy", ["letterbox", "stretch"])
    def test_labels_are_in_each_images_own_pixels(self, tf, patch_segmenter, pictures, policy):
        model = patch_segmenter(policy)
        strings = [png(tf, pictures[0]), b"no image", *(png(tf, p) for p in pictures[1:])]
        served = endpoints.Endpoints(model).predict_encoded(tf.constant(strings))
        sizes = [pictures[0].shape[:2], (0, 0), *(p.shape[:2] for p in pictures[1:])]
        np.testing.assert_array_equal(served["sizes"], sizes)
        assert served["labels"].shape == (4, 120, 131)
        found = set()
        for item, picture in zip((0, 2, 3), pictures, strict=True):
            height, width = picture.shape[:2]
            inside = resized_size(np.array([height, width]), (64, 80), policy)
            image = resize_images(tf.constant(picture), (64, 80), policy)
            logits = model(tf.cast(image, "float32")[None])[:, : inside[0], : inside[1]]
            logits = tf.image.resize(logits, (height, width))[0].numpy()
            labels = served["labels"][item].numpy()
            np.testing.assert_array_equal(labels[:height, :width], logits.argmax(-1))
            assert (labels[height:] == -1).all()
            assert (labels[:, width:] == -1).all()
            odds = np.exp(logits - logits.max(-1, keepdims=True))
            scores = served["scores"][item].numpy()
            np.testing.assert_allclose(scores[:height, :width], 1 / odds.sum(-1), atol=1e-6)
            found |= set(logits.argmax(-1).ravel())
        assert len(found) > 1
        assert (served["labels"][1].numpy() == -1).all()
        assert not served["scores"][1].numpy().any()

    @pytest.mark.parametrize("batch", [0, 1, 3])
    def test_batch_sizes(self, tf, patch_segmenter, batch):
        answer = endpoints.Endpoints(patch_segmenter()).predict(
            tf.zeros((batch, 40, 56, 3), "uint8")
        )
        assert answer["labels"].shape == (batch, 40, 56)
        assert answer["sizes"].shape == (batch, 2)

    @pytest.mark.usefixtures("tf")
    def test_it_is_exported(self, patch_segmenter, tmp_path, capsys):
        report = saved_model(patch_segmenter(), tmp_path / "model", "portable")
        assert report.compared > 64 * 80
        assert 0 <= report.differences["scores"] <= 1e-5
        assert "pixels: scores within" in capsys.readouterr().out

    def test_differences_are_told(self):
        one = {"labels": np.zeros((1, 8, 8), "int32"), "scores": np.full((1, 8, 8), 0.7)}
        assert LabelMaps.compare(one, one) == (64, {"scores": 0.0})
        with pytest.raises(ValueError, match="100.00% of the pixels have another label"):
            LabelMaps.compare(one, {**one, "labels": one["labels"] + 1})
        with pytest.raises(ValueError, match="scores differ by up to 0.1"):
            LabelMaps.compare(one, {**one, "scores": one["scores"] + 0.1})
        with pytest.raises(ValueError, match=r"shape \(1, 4, 8\) where \(1, 8, 8\)"):
            LabelMaps.compare(one, {**one, "labels": one["labels"][:, :4]})


class TestClassScores:
    def test_a_classifier_is_exported(self, tf, patch_classifier, pictures, tmp_path):
        report = saved_model(patch_classifier(), tmp_path / "model", "portable")
        assert report.compared == 5  # one image, one, and two whole ones beside a damaged one
        signatures = tf.saved_model.load(str(tmp_path / "model")).signatures
        strings = [png(tf, pictures[0]), b"no image"]
        answer = numpy_of(signatures["encoded"](encoded_images=tf.constant(strings)))
        assert answer["labels"].shape == (2,)
        assert answer["labels"][1] == -1
        np.testing.assert_allclose(answer["scores"].sum(-1), [1, 0], atol=1e-6)

    def test_differences_are_told(self):
        one = {"labels": np.array([0, 1]), "scores": np.array([[0.9, 0.1], [0.5, 0.5]])}
        assert ClassScores.compare(one, {**one, "labels": np.array([0, 0])})[0] == 2
        with pytest.raises(ValueError, match="image 0 is 1 where 0 was expected"):
            ClassScores.compare(one, {**one, "labels": np.array([1, 1])})
        with pytest.raises(ValueError, match="image 0 is -1 where 0"):
            ClassScores.compare(one, {**one, "labels": np.array([-1, 1])})


def test_a_task_that_nobody_knows(tf, patch_detector, monkeypatch, tmp_path):
    monkeypatch.setattr(patch_detector, "task", "captioning")
    with pytest.raises(TypeError, match="one of .*'detection'.*Received: 'captioning'"):
        saved_model(patch_detector(), tmp_path / "model", "portable")
