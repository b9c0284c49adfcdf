"""Loops against compiled loops: `python -m bench.loops [--write]`.

Every implementation computes the same small layer, pass by pass. Results are checked for equality
first and compilation is outside the timing (see test_loops.py); the table shows the fastest round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import report
from bench.contenders import LAYER, PASSES, jit_algorithms

COMMAND = "python -m bench.loops --write"

# In a process of its own: every pass of the layer, from the call to its return, compilation included.
FIRST_CALLS = """
import sys
import time
import numbaconv
from bench.contenders import numbaconv_passes
passes = numbaconv_passes(numbaconv, algorithm=sys.argv[1])
start = time.perf_counter()
for run in passes.values():
    run()
print(time.perf_counter() - start)
"""


def run_benchmarks(rounds: int) -> list[dict]:
    """Run test_loops.py under pytest-benchmark; its progress goes to stderr."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder, "result.json")
        command = [sys.executable, "-m", "pytest", "bench/test_loops.py", "-q", "-p", "no:cacheprovider"]
        command += [f"--benchmark-json={result}", f"--benchmark-min-rounds={rounds}"]
        command += ["--benchmark-disable-gc", "--benchmark-columns=min,median,rounds"]
        process = subprocess.run(command, cwd=report.ROOT, stdout=sys.stderr, check=False)
        if process.returncode:
            raise SystemExit(f"the benchmarks failed: pytest ended with {process.returncode}")
        return json.loads(result.read_text())["benchmarks"]


def measure_first_calls(algorithm: str) -> tuple[float, float]:
    """Seconds of the first calls of all passes: with an empty cache, and in the next process."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}

        def run_process() -> float:
            command = [sys.executable, "-c", FIRST_CALLS, algorithm]
            return float(subprocess.check_output(command, cwd=report.ROOT, env=environment))

        return run_process(), run_process()


def describe_compilation() -> str:
    """What the table leaves out, in one sentence."""
    times = {algorithm: measure_first_calls(algorithm) for algorithm in jit_algorithms()}
    return (
        "Compilation is not in the table. The first calls of all passes take: "
        + "; ".join(
            f'`"{algorithm}"` {cold:.1f} s on a new machine and {cached:.2f} s from the cache'
            for algorithm, (cold, cached) in times.items()
        )
        + "."
    )


def number(value: float) -> str:
    """Three digits, or all of an integer part that has more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def make_rows(benchmarks: list[dict]) -> list[list[str]]:
    """One row per implementation: milliseconds of each pass, and how many times plain Python's speed."""
    best = {(b["extra_info"]["contender"], b["group"]): b["stats"]["min"] for b in benchmarks}
    contenders = list(dict.fromkeys(contender for contender, _ in best))
    rows = []
    for contender in contenders:
        row = [contender]
        for name in PASSES:
            seconds = best.get((contender, name))
            if seconds is None:
                row.append("")
            else:
                ratio = best[contenders[0], name] / seconds
                row.append(f"{number(seconds * 1e3)} ms, {number(ratio)}x")
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.loops", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help="put the table into README.md")
    parser.add_argument("--rounds", type=int, default=5, help="rounds per row and pass, at least (5)")
    arguments = parser.parse_args()
    rows = make_rows(run_benchmarks(arguments.rounds))
    text = "\n\n".join(
        (
            f"{LAYER}: fastest round, and how many times the speed of plain Python.",
            report.table(["", *PASSES], rows),
            describe_compilation(),
            f"Made by `{COMMAND}` on {report.footer(['NumPy', 'Numba', 'SciPy'])}",
        )
    )
    print(text)
    if arguments.write:
        report.write_between_markers(report.ROOT / "README.md", "bench.loops", text)


if __name__ == "__main__":
    main()
