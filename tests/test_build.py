"""What the build requires, and what it says when something is missing."""

import re
import runpy
import subprocess
import sysconfig
from pathlib import Path

import pytest

setuptools = pytest.importorskip("setuptools")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def build(monkeypatch, tmp_path):
    """Runs setup.py for an environment with the given distributions; returns its arguments."""
    for variable in ("KVISION_TENSORFLOW", "KVISION_BUILD_OPS", "KVISION_TF"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")

    def run(*installed, **environment):
        for distribution in installed:
            (tmp_path / f"{distribution}.dist-info").mkdir()
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        arguments = {}
        monkeypatch.setattr(setuptools, "setup", arguments.update)
        runpy.run_path(str(ROOT / "setup.py"))
        return arguments

    return run


def _tensorflow(requirements):
    return [requirement for requirement in requirements if requirement.startswith("tensorflow")]


def test_the_cpu_distribution_is_required_in_an_empty_environment(build):
    arguments = build()
    assert _tensorflow(arguments["install_requires"]) == ["tensorflow-cpu==2.21.*"]
    assert arguments["setup_requires"] == ["tensorflow-cpu==2.21.*"]


@pytest.mark.parametrize(
    ("installed", "required"),
    [
        ("tensorflow-2.20.1", "tensorflow==2.21.*"),
        ("tensorflow-2.21.0", "tensorflow==2.21.*"),
        ("tensorflow_cpu-2.21.0", "tensorflow-cpu==2.21.*"),
        ("tensorflow_metadata-1.17.0", "tensorflow-cpu==2.21.*"),
    ],
)
def test_the_distribution_that_is_there_is_the_one_required(build, installed, required):
    assert _tensorflow(build(installed)["install_requires"]) == [required]


@pytest.mark.parametrize(
    ("installed", "built_for"),
    [
        ("tensorflow-2.21.0", "tensorflow==2.21.0"),
        ("tensorflow_cpu-2.21.3", "tensorflow-cpu==2.21.3"),
        ("tensorflow_cpu-2.20.0", "tensorflow-cpu==2.21.*"),  # replaced by the newest, like this
    ],
)
def test_the_build_is_for_the_version_that_stays(build, installed, built_for):
    """The native library loads beside no other, and a newer one may have been published."""
    assert build(installed)["setup_requires"] == [built_for]


def test_elsewhere_there_is_one_distribution(build, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert _tensorflow(build()["install_requires"]) == ["tensorflow==2.21.*"]


def test_the_distribution_can_be_chosen(build):
    arguments = build(KVISION_TENSORFLOW="tensorflow")
    assert _tensorflow(arguments["install_requires"]) == ["tensorflow==2.21.*"]
    with pytest.raises(ValueError, match="KVISION_TENSORFLOW must be .* Received: tf"):
        build(KVISION_TENSORFLOW="tf")


def test_without_tensorflow_there_are_still_keras_and_numpy(build):
    arguments = build(KVISION_TENSORFLOW="none")
    assert _tensorflow(arguments["install_requires"]) == []
    assert arguments["setup_requires"] == ["jaxlib"]  # it brings XLA's header, as TensorFlow does
    assert len(arguments["install_requires"]) == 2
    assert len(arguments["ext_modules"]) == 1


def test_a_pure_python_build_needs_no_compiler_and_no_tensorflow(build):
    arguments = build(KVISION_BUILD_OPS="0")
    assert arguments["ext_modules"] == arguments["setup_requires"] == []
    assert _tensorflow(arguments["install_requires"]) == ["tensorflow-cpu==2.21.*"]


def test_the_kernels_alone_are_built_without_tensorflow(build):
    arguments = build(KVISION_TF="OFF")
    assert arguments["setup_requires"] == ["jaxlib"]
    assert len(arguments["ext_modules"]) == 1


def python(version, lacking="nothing"):
    """A Python that answers what it is asked for by failing at the given words."""
    return f'case "$2" in *{lacking}*) exit 1;; *version_info*) echo {version};; esac'


COMPILER = {"git": "", "g++": "echo 12"}


@pytest.fixture
def set_up(tmp_path):
    """Runs the set-up's check where there are only the given commands."""

    def run(tools, **environment):
        for tool, body in tools.items():
            script = tmp_path / tool
            script.write_text(f"#!/bin/sh\n{body}\n")
            script.chmod(0o755)
        (tmp_path / "cut").symlink_to("/usr/bin/cut")
        return subprocess.run(
            ["/bin/sh", ROOT / "tools" / "prerequisites.sh"],
            env={"PATH": str(tmp_path), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.mark.parametrize(
    ("tools", "said"),
    [
        ({}, "git is missing. On Debian or Ubuntu: sudo apt install git"),
        ({"git": ""}, "g++ is missing. On Debian or Ubuntu: sudo apt install g++"),
        ({"git": "", "g++": "echo 9"}, "g++ is older than 11. On Debian or Ubuntu: .* CXX=g++-12"),
        (COMPILER, "Python 3.11, 3.12 or 3.13 is missing."),
        (COMPILER | {"python3": "exit 1"}, "Python 3.11, 3.12 or 3.13 is missing."),
        (COMPILER | {"python3": python("3.12", "venv")}, "sudo apt install python3.12-venv\n"),
        (
            COMPILER | {"python3": python("3.12", "venv|*include*"), "python3.11": "exit 1"},
            "Python 3.12 is incomplete. .* python3.12-venv python3.12-dev\n",
        ),
    ],
)
def test_the_set_up_names_the_missing_package(set_up, tools, said):
    done = set_up(tools)
    assert done.returncode == 1
    assert re.search(said.replace("+", r"\+"), done.stderr)


def test_the_set_up_takes_a_complete_python_behind_an_incomplete_one(set_up):
    pythons = {"python3": python("3.12", "venv"), "python3.11": python("3.11")}
    done = set_up(COMPILER | pythons)
    assert (done.stdout, done.stderr) == ("python3.11\n", "")


def test_the_set_up_takes_the_compiler_and_the_python_given(set_up):
    tools = {"git": "", "g++": "echo 9", "g++-12": "echo 12", "python3": python("3.11")}
    tools["mine"] = python("3.13")
    assert set_up(tools, CXX="g++-12", PYTHON="mine").stdout == "mine\n"


def test_the_tools_are_pinned_once():
    pins = (ROOT / "pyproject.toml").read_text()
    for line in (ROOT / ".pre-commit-config.yaml").read_text().splitlines():
        if "additional_dependencies" in line:
            assert f'"{line.split("[")[1].rstrip("]")}"' in pins


def test_the_peers_are_pinned_once():
    """`make bench` installs the versions of the extra `interop`."""
    assert "torch==" in (ROOT / "pyproject.toml").read_text()
    assert "torch==" not in (ROOT / "Makefile").read_text()
