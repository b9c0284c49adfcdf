"""What importing costs, and the loops as plain Python: in processes of their own."""

from .process import run_python

IMPORT = """
OPTIONAL = "scipy", "sklearn", "matplotlib", "tqdm", "mlxtend", "torch", "pytest"
import sys
from numba.core import event

before = set(sys.modules)  # Numba imports parts of SciPy where it finds it
with event.install_recorder("numba:compile") as compiled:
    import numbaconv
print(len(compiled.buffer))
print(sorted({name.split(".")[0] for name in sys.modules.keys() - before} & set(OPTIONAL)))
"""

COMPILING = """
import numpy as np
from numba import njit
from numba.core import event

with event.install_recorder("numba:compile") as compiled:
    njit(lambda x: x + 1)(1)
print(len(compiled.buffer) > 0)
"""


def test_import_is_light():
    """Nothing is compiled, and none of the optional packages is imported."""
    compiled, imported = run_python(IMPORT).splitlines()
    assert compiled == "0"
    assert imported == "[]"


def test_recorder_of_the_test_above_sees_compilation():
    assert run_python(COMPILING).strip() == "True"


WITHOUT_JIT = """
import numba
import numpy as np
from tests.cases import LAYOUTS, PASSES, Case
from tests.problem import Problem, assert_exact

assert numba.config.DISABLE_JIT
CASES = (
    Case("", 2, 4, 5, 6, 6, 3, 2, (2, 1), ((1, 0), (2, 1)), (1, 2), 2),
    Case("", 1, 2, 4, 5, 2, 2, 2, 3, "same"),
    Case("", 0, 2, 4, 5, 2, 2, 2),
    Case("", 2, 0, 4, 5, 2, 2, 2),
)
count = 0
for case in CASES:
    for layout in LAYOUTS:
        for dtype in (np.float32, np.float64):
            problem = Problem.integers(case, dtype, layout, flip=layout == "NHWC")
            for name in PASSES:
                expected = problem.expected(name)
                assert_exact(problem.run(name, "loops"), expected, dtype)
                if name != "conv2d":
                    out = np.ones(expected.shape, dtype)
                    problem.run(name, "loops", out=out, accumulate=True)
                    assert_exact(out, 1 + expected, dtype)
                count += 1
print(count)
"""


def test_loops_as_plain_python():
    assert int(run_python(WITHOUT_JIT, NUMBA_DISABLE_JIT="1")) == 4 * 3 * 2 * 4


LAYER_WITHOUT_JIT = """
import numpy as np
from numbaconv import Conv2D
from numbaconv.gradcheck import gradcheck

layer = Conv2D(2, 3, 2, dtype=np.float64, rng=0)
print(bool(gradcheck(layer, np.random.default_rng(0).normal(size=(1, 2, 4, 4)))))
"""


def test_layer_as_plain_python():
    assert run_python(LAYER_WITHOUT_JIT, NUMBA_DISABLE_JIT="1").strip() == "True"
