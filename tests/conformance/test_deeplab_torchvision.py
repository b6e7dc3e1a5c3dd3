"""DeepLab v3 and v3+ with the same weights as PyTorch's, on photographs (tests/golden/make_deeplab)."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

import kvision
from kvision.backbones import ResNet50, ResNet101
from kvision.weights import load_torchvision
from kvision.weights.layouts import CONVOLUTION
from kvision.weights.loading import Target, load, torch_targets
from tests.golden.make_deeplab_size import SIZE
from tests.golden.photographs import photographs
from tests.golden.seeded_weights import seeded_state_dict

pytestmark = pytest.mark.conformance
