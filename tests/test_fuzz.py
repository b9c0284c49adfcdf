"""The random problems of :mod:`tests.fuzz`: some fresh ones, and the command that runs thousands."""

import secrets
import shlex
import sys

import numpy as np
import pytest

import numbaconv

from . import fuzz
from .cases import ALGORITHMS
from .oracle import Taps

LINE = (
    "N=2 C=4 H=5 W=6 F=6 KH=3 KW=2 stride=1,2 padding=1,0,0,2 dilation=1,1 groups=2 layout=NHWC dtype=float32 flip=1 "
    "memory=strided special=0 parallel=1 threads=2 seed=7"
)


def test_fresh_cases():
    """Others in each run."""
    seed = secrets.randbits(32)
    failures = [failure for index in range(40) if (failure := fuzz.run(fuzz.draw(seed, index)))]
    assert not failures, "\n".join([f"seed {seed}", *failures])


def test_depthwise_without_rows():
    fuzz.check(
        fuzz.Spec.parse(
            "N=1 C=8 H=0 W=6 F=8 KH=3 KW=3 stride=1,1 padding=2,2,2,2 dilation=1,1 groups=8 layout=NCHW dtype=float32 "
            "flip=0 memory=contiguous special=0 parallel=0 threads=1 seed=1"
        )
    )


def test_a_line_is_the_case():
    """What is printed is read back; the same seed draws the same cases, another one others."""
    specs = [fuzz.draw(3, index) for index in range(200)]
    assert [fuzz.Spec.parse(str(spec)) for spec in specs] == specs
    assert [fuzz.draw(3, index) for index in range(200)] == specs
    assert [fuzz.draw(4, index) for index in range(200)] != specs


def test_every_kind_is_drawn():
    specs = [fuzz.draw(3, index) for index in range(300)]
    kinds = {"layout": 3, "dtype": 2, "flip": 2, "memory": len(fuzz.MEMORY), "special": 2, "parallel": 2, "threads": 8}
    assert {name: len({getattr(spec, name) for spec in specs}) for name in kinds} == kinds
    assert sum(spec.case.supports("winograd") for spec in specs) > 50
    assert any(len(set(spec.padding)) == 4 for spec in specs)
    assert any(spec.N == 0 for spec in specs)
    assert any(spec.C == 0 for spec in specs)


def crossed(spec):
    """(pass, block) of each size at which the plan cuts this problem into more than one piece."""
    case = spec.case
    how = {"layout": spec.layout, "dtype": spec.dtype, "algorithm": "direct"}
    plans = numbaconv.explain(case.input_shape(spec.layout), case.weight_shape, **case.options(), **how)
    OH, OW = case.outputs
    extents = {"channels": case.C // case.groups, "filters": case.F // case.groups, "images": case.N}
    extents |= {"rows": OH, "columns": OW, "images": case.N, "shares": np.inf}
    for plan in plans.plans:
        for block, size in plan.blocks.items():
            many = case.C if "depthwise" in plan.reason and block == "channels" else extents.get(block, 0)
            if (block == "shares" and size > 1) or (block != "shares" and many > size):
                yield plan.name, block


def test_the_large_cases_cross_every_block():
    found = {pair for index in range(2, 180, 3) for pair in crossed(fuzz.draw(1, index))}
    for pass_ in ("forward", "input gradient"):
        assert {(pass_, "filters"), (pass_, "channels"), (pass_, "images"), (pass_, "rows")} <= found
    dw = ("channels", "filters", "images", "rows", "columns", "shares")
    assert {("weight gradient", block) for block in dw} <= found


def test_the_tap_oracle_of_a_line():
    """Padding on four sides reaches the case in their order."""
    case = fuzz.Spec.parse(LINE).case
    assert Taps((5, 6), (3, 2), (1, 2), ((1, 0), (0, 2)), (1, 1)).outputs == case.outputs == (4, 4)


# -- the command -------------------------------------------------------------------------------------


def test_case_passes(capsys):
    assert fuzz.main(["--case", LINE]) == 0
    assert capsys.readouterr().out == "passed\n"


@pytest.mark.parametrize("line", ("", "N=2", LINE + " more=1", LINE.replace("NHWC", "NCWH"), LINE.replace("1,2", "1")))
def test_what_is_no_case_is_refused(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        fuzz.main(["--case", line])
    assert stopped.value.code == 2
    assert "it has the form of N=" in capsys.readouterr().err


def test_counts_with_a_seed(capsys):
    pytest.importorskip("tqdm")
    assert fuzz.main(["--count", "5", "--seed", "11"]) == 0
    assert capsys.readouterr().out == "seed 11\n5 cases passed, 0 failed\n"


def test_a_failure_is_one_line_that_reproduces_it(capsys, monkeypatch):
    """One element of dw that is off by one, on integers, in large or small cases."""
    pytest.importorskip("tqdm")
    right = numbaconv.conv2d_weight_grad

    def wrong(*args, **options):
        dw = right(*args, **options)
        dw.flat[:1] += 1
        return dw

    with monkeypatch.context() as patch:
        patch.setattr(numbaconv, "conv2d_weight_grad", wrong)
        assert fuzz.main(["--count", "3", "--seed", "1"]) == 1
    *_, failed, summary = lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 1"
    assert summary.endswith("failed")
    words = shlex.split(failed, comments=True)
    assert words[:4] == ["python", "-m", "tests.fuzz", "--case"]
    assert fuzz.main(words[3:]) == 0
    monkeypatch.setattr(numbaconv, "conv2d_weight_grad", wrong)
    assert fuzz.main(words[3:]) == 1
    assert "AssertionError" in capsys.readouterr().out.splitlines()[-1]


def test_without_a_progress_bar_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(SystemExit) as stopped:
        fuzz.main(["--count", "1"])
    assert str(stopped.value) == "fuzz: the progress bar needs tqdm: pip install tqdm"


def test_every_algorithm_is_bounded():
    """An algorithm that is neither exact nor has a bound in the contract would pass unseen."""
    assert set(ALGORITHMS) - {"winograd"} == set(fuzz.EXACT_ALGORITHMS)
