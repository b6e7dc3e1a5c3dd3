"""Imports and includes run one way, as docs/architecture.md says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kvision"
SOURCES = ROOT / "csrc"

PARTS = {"backbones", "boxes", "layers", "losses", "masks", "metrics", "models", "ops"}
ALLOWED = {
    "ops": set(),
    "boxes": {"ops"},
    "masks": set(),
    "layers": {"ops", "boxes"},
    "losses": {"ops", "boxes"},
    "metrics": {"ops", "boxes", "masks"},
    "backbones": {"layers", "ops", "boxes"},
    "models": {"backbones", "layers", "losses", "metrics", "boxes", "ops"},
    "export": PARTS,
    "weights": PARTS,
    "data": {"boxes", "masks", "ops"},
    "visualization": {"boxes"},
    "training": {"metrics"},
    # No concrete op: `kvision.ops.native` alone, see below.
    "testing": {"ops"},
}
# Of `models`, what every task may use.
SHARED_BY_TASKS = {"data_checks", "image_model"}
# Tasks that are made of another.
BUILT_ON = {"instances": {"detection"}}
# The one import upwards, `Model.export` opening `kvision.export` inside the method, and the one of
# the compiled module.
DOORS = {("models/image_model.py", "export"), ("ops/library.py", "_C")}
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

# Of a framework that is not TensorFlow, imported where that is the backend in use: Keras has
# imported it then.
FRAMEWORK_DOORS = {
    PACKAGE / "ops" / "doors" / "jax.py": {"jax"},
    PACKAGE / "ops" / "doors" / "torch.py": {"torch"},
}

# Run by their paths in processes of their own.
SCRIPTS = {
    PACKAGE / "export" / "reload.py",
    PACKAGE / "testing" / "kernel_process.py",
    PACKAGE / "testing" / "serving_process.py",
}

# What a folder of csrc/ may include of the others, and which may include what is not kvision's.
INCLUDED = {
    "common": set(),
    "ops": {"common"},
    "fuzz": {"common"},
    "xla": {"common"},
    "tensorflow": {"common", "xla"},
    "python": {"common", "xla"},
}
FOREIGN = {
    "tensorflow": {"tensorflow"},
    "tsl": {"tensorflow"},
    "xla": {"tensorflow", "xla"},
    "pybind11": {"python"},
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
        if _asks_for_torch(node):
            pending.extend(node.orelse)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            pending.extend(ast.iter_child_nodes(node))
    return names


def _asks_for_torch(node: ast.AST) -> bool:
    """Whether a statement is what only those run for whom Keras has imported PyTorch."""
    return (
        isinstance(node, ast.If) and ast.unparse(node.test) == "keras.backend.backend() == 'torch'"
    )


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
            usable = {rest[0], *SHARED_BY_TASKS, *BUILT_ON.get(rest[0], ())}
            assert deeper[0] in usable, f"{_name(path)}: one task imports another, {name}"


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
    assert roots & DEFERRED == FRAMEWORK_DOORS.get(path, set())


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_the_backends_doors_are_opened_by_native_alone(path):
    names = _imports_at_import_time(path)
    assert not any(name.startswith("kvision.ops.doors") for name in names)
    if path != PACKAGE / "ops" / "native.py":
        assert not any(name.startswith("kvision.ops.doors") for name in _imports(path))


@pytest.mark.parametrize("path", sorted((PACKAGE / "ops" / "doors").glob("*.py")), ids=_name)
def test_a_door_names_no_op(path):
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert not set(strings) & {folder.name for folder in (SOURCES / "ops").iterdir()}
    used = {name for name in _imports(path) if name.startswith("kvision")}
    modules = ("kvision.ops.library", "kvision.ops.gradients")
    assert all(name.startswith(modules) for name in used)


def _includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE)


@pytest.mark.parametrize("path", INCLUDERS, ids=lambda path: path.relative_to(SOURCES).as_posix())
def test_sources_include_downwards(path):
    part, *rest = path.relative_to(SOURCES).parts
    is_target = part == "fuzz" or path.name.endswith("_fuzz.cc")
    for include in _includes(path):
        own = (SOURCES / include).exists()
        target, *deeper = Path(include).parts
        if own:
            allowed = {part, *INCLUDED[part], *(["fuzz"] if is_target else [])}
            assert target in allowed, f"{path.name} includes {include}"
            if part == target == "ops":
                assert deeper[0] == rest[0], f"{path.name}: one op includes another, {include}"
        elif target in FOREIGN:
            assert part in FOREIGN[target], f"{path.name} includes {include}"
            # The interface is headers alone; the rest of XLA is TensorFlow's.
            assert part != "xla" or include.startswith("xla/ffi/api/")
