"""The public API, found by walking the packages. Run as a script, it writes the snapshot."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import kvision

SNAPSHOT = Path(__file__).with_suffix(".txt")


def _packages():
    yield kvision
    for module in pkgutil.walk_packages(kvision.__path__, "kvision."):
        if module.ispkg:
            yield importlib.import_module(module.name)


def public_objects() -> dict[str, object]:
    """Public name -> object, for all that the packages' `__all__` name."""
    return {
        f"{package.__name__}.{name}": getattr(package, name)
        for package in _packages()
        for name in package.__all__
    }


def defined_here(value) -> bool:
    """Whether the object is a function or class of kvision."""
    is_code = inspect.isclass(value) or inspect.isfunction(inspect.unwrap(value))
    return is_code and value.__module__.startswith("kvision")


def public_classes() -> dict[str, type]:
    """Public name -> class, each class once."""
    objects = public_objects().items()
    return {
        name: value for name, value in objects if inspect.isclass(value) and defined_here(value)
    }


def snapshot() -> str:
    """One line a name: functions and classes with their signatures."""
    lines = []
    for name, value in sorted(public_objects().items()):
        signature = ""
        if defined_here(value):
            try:
                signature = _plain(inspect.signature(value))
            except ValueError:
                signature = "(...)"
        lines.append(name + signature)
    return "\n".join(lines) + "\n"


def _plain(signature: inspect.Signature) -> str:
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    plain = signature.replace(parameters=parameters, return_annotation=signature.empty)
    return str(plain)


if __name__ == "__main__":
    SNAPSHOT.write_text(snapshot())
