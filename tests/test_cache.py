"""Machine code kept on disk: found by the next process, and never the reason of a wrong result."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from .process import ROOT, run_python

# The kernel that compiles fastest stands for all: they share one cache.
PROGRAM = """
import warnings

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np
    from numba.core import event
    import numbaconv

    with event.install_recorder("numba:compile") as compiled:
        db = numbaconv.conv2d_bias_grad(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2))
print(len(compiled.buffer) > 0, len(caught), *db.astype(int))
print(*(warning.message for warning in caught))
"""
RIGHT = [60, 92, 124]
WRONG = [-60, -92, -124]  # what an edited kernel computes


def run(cache, *, code=PROGRAM, right=RIGHT, warned=0, **more):
    """Run the program; return whether it compiled anything."""
    first, *said = run_python(code, **{"NUMBA_CACHE_DIR": str(cache)} | more).splitlines()
    compiled, warnings, *db = first.split()
    assert [int(value) for value in db] == right
    assert int(warnings) == warned, said
    return compiled == "True"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that one process has filled."""
    folder = tmp_path_factory.mktemp("filled")
    assert run(folder)
    assert files(folder)
    return folder


@pytest.fixture
def cache(filled, tmp_path):
    """A copy of it."""
    return shutil.copytree(filled, tmp_path / "cache")


def test_second_process_compiles_nothing(filled):
    assert not run(filled)


@pytest.mark.parametrize("keep", ("nothing", "7 bytes", "half", "other bytes"))
def test_damaged_files(keep, cache):
    """They are compiled again, and from then on found again."""
    for path in files(cache):
        data = path.read_bytes()
        damaged = {
            "nothing": b"",
            "7 bytes": data[:7],
            "half": data[: len(data) // 2],
            "other bytes": bytes(len(data)),
        }[keep]
        path.write_bytes(damaged)
    assert run(cache)
    assert not run(cache)


def test_cache_of_another_version(cache):
    """Nobody reads what another version wrote, and each finds its own."""
    older = f"import numba; numba.__version__ = '0.0.1'\n{PROGRAM}"
    assert run(cache, code=older)
    assert not run(cache, code=older)
    assert not run(cache)


@pytest.fixture
def package(tmp_path):
    """A folder with a copy of the package, to import from there."""
    folder = tmp_path / "copy"
    shutil.copytree(ROOT / "numbaconv", folder / "numbaconv", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_edit_in_what_a_kernel_calls(package, tmp_path):
    """The file of the kernel itself stays as it was."""
    where = {"folder": package, "PYTHONDONTWRITEBYTECODE": "1"}
    callee = package / "numbaconv/kernels/simd.py"
    before = callee.read_text(encoding="utf-8")
    value = "return builder.extract_element(value, ir.Constant(I32, 0))"
    assert value in before
    assert run(tmp_path, **where)
    callee.write_text(before.replace(value, f"value = builder.fneg(value)\n        {value}"), encoding="utf-8")
    assert run(tmp_path, right=WRONG, **where)
    callee.write_text(before, encoding="utf-8")
    assert not run(tmp_path, **where)


DIGESTS = """
from pathlib import Path
import shutil, subprocess, sys
from numbaconv.kernels.code_cache import source_digest

def digest():
    return source_digest.__wrapped__().hex()

found = [digest()]
Path("numbaconv/kernels/more").mkdir()
Path("numbaconv/kernels/more/below.py").write_text("there = True")
found.append(digest())
for path in sorted(Path("numbaconv/kernels").rglob("*.py")):
    before = path.read_bytes()
    for edited in (before + b"#", before.replace(b"e", b"f", 1), b""):
        path.write_bytes(edited)
        found.append(digest())
    path.write_bytes(before)
Path("numbaconv/kernels/new.py").touch()
found.append(digest())
Path("numbaconv/kernels/new.py").unlink()
assert digest() == found[1]
assert len(set(found)) == len(found) > 30
shutil.make_archive("zipped", "zip", ".", "numbaconv")
code = "import sys; sys.path[0] = 'zipped.zip'; from numbaconv.kernels.code_cache import source_digest as digest; "
code += "print(digest().hex())"
assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == found[1]
"""


def test_edit_in_any_kernel_file(package):
    """All are in the key, those in folders below too, and also where the package is imported from an archive."""
    run_python(DIGESTS, folder=package, PYTHONDONTWRITEBYTECODE="1")


def test_no_folder_can_be_written(package, tmp_path):
    """Folders are files here, since root may write anywhere: one warning, and right."""
    blocked = tmp_path / "file"
    blocked.touch()
    (package / "numbaconv/kernels/__pycache__").touch()
    nowhere = dict.fromkeys(("NUMBA_CACHE_DIR", "HOME", "XDG_CACHE_HOME"), str(blocked / "x"))
    assert run(blocked, warned=1, folder=package, **nowhere, PYTHONDONTWRITEBYTECODE="1")
    assert blocked.read_bytes() == b""


def test_full_disk(tmp_path):
    """No file may grow beyond 4 KiB: one warning, right, and nothing half written for a later process to meet."""
    pytest.importorskip("resource")
    full = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n{PROGRAM}"
    assert run(tmp_path, code=full, warned=1)
    assert files(tmp_path) == []


AT_ONCE = """
import sys
import numpy as np
from numba.core import event
from tests.cases import COMMON, LAYOUTS
from tests.problem import Problem, assert_exact

with event.install_recorder("numba:compile") as compiled:
    for number in {numbers}:
        dtype, layout = (np.float32, np.float64)[number % 2], LAYOUTS[number % 3]
        problem = Problem.integers(COMMON, dtype, layout)
        assert_exact(problem.run("conv2d_bias_grad", None), problem.expected("conv2d_bias_grad"), dtype)
print(len(compiled.buffer) > 0)
"""


def test_four_processes_start_on_an_empty_cache(tmp_path):
    """In two dtypes and three layouts, then four more, and one that needs all: right, and the later compile nothing."""

    def start(*numbers):
        return run_python(AT_ONCE.format(numbers=numbers), NUMBA_CACHE_DIR=str(tmp_path)).strip() == "True"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(start, range(4)))
        assert not any(pool.map(start, range(4)))
    assert not start(*range(4))
    assert all(path.suffix == ".nbc" for path in files(tmp_path))


# One of the two variants of a kernel that a factory makes, against the few lines of NumPy.
VARIANT = """
import sys
import numpy as np
import numbaconv
from numbaconv.kernels.winograd import algebra

rng = np.random.default_rng(0)
for C, m in {cases}:
    x = rng.normal(size=(1, C, 14, 14)).astype("f")
    weight = rng.normal(size=(16, C, 3, 3)).astype("f")
    y = numbaconv.conv2d(x, weight, algorithm="winograd")
    np.testing.assert_allclose(y[0], algebra.forward(x[0].astype("d"), weight.astype("d"), m), rtol=1e-4, atol=1e-4)
"""


@pytest.mark.slow
def test_variants_compiled_by_different_processes(tmp_path):
    """Numba numbers functions of one name anew in every process, and LLVM links by name."""
    for cases in ([(2, 2)], [(16, 4)], [(2, 2), (16, 4)], [(16, 4), (2, 2)]):
        run_python(VARIANT.format(cases=cases), NUMBA_CACHE_DIR=str(tmp_path))


ONCE = """
import gc
from collections import Counter

import numpy as np
from numba.core import event
import numbaconv

with event.install_recorder("numba:compile") as compiled:
    numbaconv.conv2d(np.ones((1, 3, 9, 9), np.float32), np.ones((2, 3, 3, 3), np.float32), algorithm="direct")
functions = [recorded.data["dispatcher"].py_func for _, recorded in compiled.buffer if recorded.is_start]
names = Counter(f.__qualname__ for f in functions if f.__module__.startswith("numbaconv"))
assert names["pack_strip"] == names["copy_split"] == 1, names
assert max(names.values()) == 1, names.most_common(5)
assert gc.isenabled()
"""


@pytest.mark.slow
def test_a_helper_is_compiled_once(tmp_path):
    """And not once more for each int that a caller writes out: that was a tenth of the time of the first kernels."""
    run_python(ONCE, NUMBA_CACHE_DIR=str(tmp_path))
