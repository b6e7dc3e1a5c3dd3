"""Imports and includes run one way, as docs/architecture.md says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kvision"
SOURCES = ROOT / "csrc"

PARTS = {"backbones", "boxes", "layers", "losses", "metrics", "models", "ops"}
ALLOWED = {
    "ops": set(),
    "boxes": {"ops"},
    "layers": {"ops", "boxes"},
    "losses": {"ops", "boxes"},
    "metrics": {"ops", "boxes"},
    "backbones": {"layers", "ops", "boxes"},
    "models": {"backbones", "layers", "losses", "metrics", "boxes", "ops"},
    "export": PARTS,
    "weights": PARTS,
    "data": {"boxes", "ops"},
    "visualization": {"boxes"},
    # No concrete op: `kvision.ops.native` alone, see below.
    "testing": {"ops"},
}
# The one import upwards, `Model.export` opening `kvision.export` inside the method, and the one of
# the compiled module.
DOORS = {("models/detection/detector.py", "export"), ("ops/native.py", "_C")}
# Slow to import, or not installed everywhere: imported inside the functions that need them.
DEFERRED = {
    "PIL",
    "faster_coco_eval",
    "hypothesis",
    "jax",
    "matplotlib",
    "pycocotools",
    "pytest",
    "scipy",
    "sklearn",
    "tensorflow",
    "torch",
}

# Run by their paths in processes of their own.
SCRIPTS = {
    PACKAGE / "export" / "reload.py",
    PACKAGE / "testing" / "kernel_process.py",
    PACKAGE / "testing" / "serving_process.py",
}

MODULES = sorted(PACKAGE.rglob("*.py"))
INCLUDERS = sorted(
    path for path in SOURCES.rglob("*") if path.suffix in {".h", ".cc", ".cu", ".inc"}
)


def _imported(node: ast.AST, path: Path) -> list[str]:
    """The dotted names that a statement imports, relative ones resolved."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parents = path.relative_to(ROOT).with_suffix("").parts[: -node.level]
            base = ".".join([*parents, *([base] if base else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    return []


def _imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    return {name for node in ast.walk(tree) for name in _imported(node, path)}


def _imports_at_import_time(path: Path) -> set[str]:
    names, pending = set(), [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        names.update(_imported(node, path))
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
    return names


def _name(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def test_every_package_has_its_row():
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert packages <= set(ALLOWED)


@pytest.mark.parametrize("path", [m for m in MODULES if m.parent != PACKAGE], ids=_name)
def test_packages_import_downwards(path):
    package, *rest = path.relative_to(PACKAGE).parts
    for name in _imports(path):
        if not name.startswith("kvision."):
            continue
        target, *deeper = name.split(".")[1:]
        allowed = target in ALLOWED[package] or target == package
        assert allowed or (_name(path), target) in DOORS, f"{_name(path)} imports {name}"
        if package == target == "models" and len(rest) > 1 and deeper:
            assert deeper[0] == rest[0], f"{_name(path)}: one task imports another, {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "testing").rglob("*.py")), ids=_name)
def test_the_harness_knows_no_concrete_op(path):
    used = {name for name in _imports(path) if name.startswith("kvision.ops")}
    assert used <= {"kvision.ops.native"}


def test_the_package_does_not_import_the_harness():
    for path in MODULES:
        if path.parent != PACKAGE / "testing":
            assert not any(name.startswith("kvision.testing") for name in _imports(path))


def test_the_doors_are_deferred():
    for module, target in DOORS:
        names = _imports_at_import_time(PACKAGE / module)
        assert not any(name.startswith(f"kvision.{target}") for name in names)


@pytest.mark.parametrize("path", [m for m in MODULES if m not in SCRIPTS], ids=_name)
def test_heavy_packages_are_imported_where_needed(path):
    roots = {name.partition(".")[0] for name in _imports_at_import_time(path)}
    assert not roots & DEFERRED


def _includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", INCLUDERS, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_sources_include_downwards(path):
    part, *rest = path.relative_to(SOURCES).parts
    is_glue = part == "tensorflow" or path.name.endswith("_tf.cc")
    for include in _includes(path):
        own = (SOURCES / include).exists()
        target, *deeper = Path(include).parts
        if own and part == "common":
            assert target == "common", f"{path.name} includes {include}"
        if own and part == "ops" and target == "ops":
            assert deeper[0] == rest[0], f"{path.name}: one op includes another, {include}"
        if target in {"tensorflow", "tsl", "xla"}:
            assert is_glue, f"{path.name}: only the glue includes TensorFlow, {include}"
        if target == "pybind11" or (own and target == "python"):
            assert part == "python", f"{path.name}: only csrc/python includes {include}"
        if own and target == "fuzz":
            is_target = part == "fuzz" or path.name.endswith("_fuzz.cc")
            assert is_target, f"{path.name}: only fuzz targets include {include}"
