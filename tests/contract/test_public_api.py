"""What is public is documented, and changes only on purpose."""

import inspect
import re

import pytest

from tests.contract.public_api import SNAPSHOT, defined_here, public_objects, snapshot

DOCUMENTED = {name: value for name, value in public_objects().items() if defined_here(value)}


def test_the_public_api_is_the_snapshot():
    assert snapshot() == SNAPSHOT.read_text(), (
        "The public API changed. If on purpose: python -m tests.contract.public_api, and a line in "
        "CHANGELOG.md."
    )


def _documented_arguments(text: str) -> list[str]:
    """The names under `Args:` (of a data class: `Attributes:`) of a docstring in Google's style."""
    section = r"^(?:Args|Attributes):\n((?:[ ]+.*\n?|\n)+)"
    found = re.search(section, inspect.cleandoc(text), re.MULTILINE)
    if not found:
        return []
    entries = re.findall(r"^ {4}(\S[^:\n]*):", found.group(1), re.MULTILINE)
    return [name.strip().lstrip("*`").rstrip("`") for entry in entries for name in entry.split(",")]


def _arguments(function) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.name not in {"self", "cls", "kwargs"}]


def _methods(value):
    if not inspect.isclass(value):
        return
    for name, member in vars(value).items():
        function = getattr(member, "__func__", member)
        if inspect.isfunction(function) and not name.startswith("_") and function.__doc__:
            yield name, function


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_name_the_arguments(name):
    value = DOCUMENTED[name]
    assert value.__doc__, f"{name} has no docstring"
    documented = [a for a in _documented_arguments(value.__doc__) if a != "kwargs"]
    assert documented == _arguments(value)
    for method, function in _methods(value):
        documented = [a for a in _documented_arguments(function.__doc__) if a != "kwargs"]
        if documented:
            assert documented == _arguments(function), f"{name}.{method}"
