"""The native library runs on every x86-64: newer instructions only where they are asked for."""

import platform
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FUNCTION = re.compile(r"^[0-9a-f]+ <(\S+)>:$")
# Instructions of AVX and later begin with v, those on mask registers with k.
NEWER = re.compile(r"^\s+[0-9a-f]+:\s+(?:\{\w+\} )?(?:v(?!er[rw]\b)|k)[a-z0-9]+\b")


def functions_with_newer_instructions(library):
    """Returns the mangled names of the functions in an object or archive that need AVX or more."""
    listing = subprocess.run(
        ["objdump", "--disassemble", "--no-show-raw-insn", library],
        capture_output=True,
        text=True,
        check=True,
    )
    found, name = set(), None
    for line in listing.stdout.splitlines():
        if function := FUNCTION.match(line):
            name = function[1]
        elif NEWER.match(line):
            found.add(name)
    return found


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not shutil.which("objdump"), reason="needs x86-64 and objdump"
)
def test_newer_instructions_stay_in_the_namespaces_of_their_sets():
    """Of functions with one name the linker keeps any: a shared one must run everywhere."""
    libraries = list(ROOT.glob("build/*/libkvision_kernels.a"))
    if not libraries:
        pytest.skip("the native library was not built here")
    names = functions_with_newer_instructions(max(libraries, key=lambda path: path.stat().st_mtime))
    assert any("4avx2" in name for name in names)
    assert any("6avx512" in name for name in names)
    assert [name for name in names if "4avx2" not in name and "6avx512" not in name] == []
