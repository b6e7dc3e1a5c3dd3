"""What every model does with its own attributes."""

import numpy as np
import pytest

from tests.models.tiny_detector import TinyDetector


def test_the_image_size_is_checked_whenever_it_is_set():
    model = TinyDetector(num_classes=2)
    assert model.image_size is None
    for given, expected in ((64, (64, 64)), (np.int64(32), (32, 32)), ([48, 96.0], (48, 96))):
        model.image_size = given
        assert model.image_size == expected
        assert model.get_config()["image_size"] == expected
        assert TinyDetector(num_classes=2, image_size=given).image_size == expected
    for wrong in (0, (64,), "large", (64, -1)):
        with pytest.raises(ValueError, match="TinyDetector: `image_size` must be"):
            model.image_size = wrong
    assert model.image_size == (48, 96)
    model.image_size = None
    assert model.get_config()["image_size"] is None
