"""Whatever has a configuration keeps every constructor argument in it."""

import inspect
import json

import keras
import pytest

from tests.contract.instances import ABSTRACT, INSTANCES
from tests.contract.public_api import public_classes

CONFIGURABLE = sorted(
    name
    for name, value in public_classes().items()
    if hasattr(value, "get_config") and name not in ABSTRACT
)


def test_every_configurable_class_has_an_instance():
    assert sorted(INSTANCES) == CONFIGURABLE


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_the_configuration_holds_every_argument(name):
    instance = INSTANCES[name]()
    arguments = set(inspect.signature(type(instance)).parameters) - {"kwargs"}
    assert arguments <= set(instance.get_config())


@pytest.mark.parametrize("name", CONFIGURABLE)
def test_the_configuration_makes_the_same_object_again(name):
    instance = INSTANCES[name]()
    stored = json.dumps(keras.saving.serialize_keras_object(instance))
    again = keras.saving.deserialize_keras_object(json.loads(stored))
    assert type(again) is type(instance)
    assert json.dumps(keras.saving.serialize_keras_object(again)) == stored
