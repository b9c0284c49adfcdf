"""This project against PyTorch, layer by layer: `python -m bench`.

Every pass of every layer is first compared with PyTorch's result and then timed in turns with it, in one
process. The result is the ratio of the fastest rounds; times and rates are context.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numba
import numpy as np
from numba.core import event

import numbaconv
from bench import plots, report, shapes, tables
from bench.compare import Result, WrongResultError, check, keep_freed_memory, measure, wait_for_other_threads
from bench.peak import CHAINS, Peak, PeakError
from bench.shapes import PASSES, Layer
from bench.sides import (
    algorithms,
    arrange,
    choice_sides,
    make_arrays,
    ncnn_side,
    numbaconv_side,
    prepare_torch,
    torch_side,
)

README = report.ROOT / "README.md"
MARKER = "bench:compare"
# Need fewer multiplications than the formula counts, so that they may pass the peak.
FEWER_OPERATIONS = ("winograd", "ncnn")
# Load average of the minute before, from which other work is likely to take a core away.
BUSY = 0.5


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    layers = parser.add_argument_group("layers (default: all networks)")
    names = ", ".join(shapes.networks())
    layers.add_argument("--network", action="append", default=[], metavar="NAME", help=f"repeatable: {names}")
    layers.add_argument("--shape", action="append", default=[], metavar="SPEC", help=f"repeatable: {shapes.SPEC}")
    layers.add_argument("--random", type=int, default=0, metavar="COUNT", help="layers that nobody chose")
    layers.add_argument("--seed", type=int, default=0, help="of --random (0)")
    layers.add_argument("--tiny", action="store_true", help="layers whose time is that of the call")
    layers.add_argument("--batch", type=int, help="of the networks (4 for images of 224 pixels, 32 for small ones)")
    how = parser.add_argument_group("what runs")
    how.add_argument("--passes", nargs="+", choices=PASSES, default=["y", "dx", "dw"], help="(y dx dw)")
    how.add_argument("--layout", choices=("NCHW", "NHWC", "HWCN"), default="NCHW", help="HWCN: against our NCHW")
    how.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    how.add_argument("--algorithm", default="auto", help="auto, direct, loops, ...")
    how.add_argument("--both", action="store_true", help="direct and winograd beside auto, where it has the choice")
    how.add_argument("--ncnn", action="store_true", help="ncnn beside them, forward pass alone")
    how.add_argument("--threads", type=int, nargs="+", metavar="COUNT", help="one run for each (all cores)")
    how.add_argument("--no-torch", action="store_true", help="time ours alone, checked against plain loops")
    how.add_argument("--rounds", type=int, default=20, help="of each side for each layer and pass (20)")
    how.add_argument(
        "--budget",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="for a layer: large ones get fewer rounds",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--json", type=Path, metavar="FILE", help="every round of everything")
    output.add_argument("--plot", type=Path, metavar="FOLDER", help="one picture for each network")
    output.add_argument("--write", action="store_true", help="put the tables into README.md")
    return parser


def parse(arguments: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[Layer]]:
    """Options and layers; everything that can be wrong is said before the first measurement."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    options.threads = options.threads or [numba.get_num_threads()]
    options.passes = [name for name in PASSES if name in options.passes]
    most = numba.config.NUMBA_NUM_THREADS
    if not all(1 <= threads <= most for threads in options.threads):
        parser.error(f"--threads takes 1 to {most}, got {', '.join(map(str, options.threads))}")
    if options.rounds < 1 or options.budget <= 0:
        parser.error("--rounds and --budget have to be positive")
    if options.random < 0 or (options.batch is not None and options.batch < 1):
        parser.error("--random and --batch have to be positive")
    if options.both and options.algorithm != "auto":
        parser.error("--both is for --algorithm auto")
    if options.ncnn and (options.layout, options.dtype, "y" in options.passes) != ("NCHW", "float32", True):
        parser.error("--ncnn is for pass y in NCHW and float32")
    try:
        layers = choose_layers(options)
        algorithms(layers[0], options.layout, options.algorithm, np.dtype(options.dtype))
    except ValueError as error:
        parser.error(str(error))
    missing = None
    if not options.no_torch and importlib.util.find_spec("torch") is None:
        missing = "the comparison needs PyTorch: pip install 'numbaconv[bench]', or give --no-torch"
    elif options.ncnn and importlib.util.find_spec("ncnn") is None:
        missing = "--ncnn needs ncnn: pip install ncnn"
    elif options.plot and importlib.util.find_spec("matplotlib") is None:
        missing = "--plot needs matplotlib: pip install 'numbaconv[bench]'"
    elif options.write and f"<!-- {MARKER}: begin -->" not in README.read_text(encoding="utf-8"):
        missing = f"--write needs the lines <!-- {MARKER}: begin --> and <!-- {MARKER}: end --> in README.md"
    if missing:
        parser.exit(2, f"{parser.prog}: {missing}\n")
    return options, layers


def choose_layers(options: argparse.Namespace) -> list[Layer]:
    """The layers asked for, or all networks."""
    own = [shapes.parse_shape(text) for text in options.shape]
    asked = options.network or own or options.random or options.tiny
    names = options.network if asked else shapes.networks()
    return [
        *shapes.network_layers(names, options.batch),
        *own,
        *shapes.random_layers(options.random, options.seed),
        *(shapes.tiny_layers() if options.tiny else ()),
    ]


def compile_kernels(dtype: np.dtype) -> str:
    """Compile everything ahead of the timing, and say how long it took."""
    start = time.perf_counter()
    with event.install_recorder("numba:compile") as compiled:
        numbaconv.warmup([dtype], progress=False)
    seconds = time.perf_counter() - start
    how = "those kernels that the cache did not have were compiled" if compiled.buffer else "the cache had all kernels"
    return f"Compilation is not in the times: {how}, ready after {seconds:.1f} s."


def measure_layer(layer: Layer, options: argparse.Namespace, peak: Peak) -> list[Result]:
    """All passes of one layer, each checked before any is timed."""
    dtype = np.dtype(options.dtype)
    plain = make_arrays(layer, dtype)
    arrays = arrange(plain, options.layout)
    ours = numbaconv_side("numbaconv", layer, arrays, options.layout, options.algorithm)
    theirs = None
    if options.no_torch:
        other = "direct" if options.algorithm == "loops" else "loops"
        reference = numbaconv_side(f'algorithm="{other}"', layer, plain, "NCHW", other)
    elif options.layout == "HWCN":
        reference = torch_side(layer, plain, "NCHW")
    else:
        reference = theirs = torch_side(layer, arrays, options.layout)
    their_kernels: dict[str, str] = {}
    if options.layout == "HWCN":
        theirs = numbaconv_side("our NCHW", layer, plain, "NCHW", options.algorithm)
        their_kernels = algorithms(layer, "NCHW", options.algorithm, dtype)
    others = choice_sides(layer, arrays, options.layout) if options.both else []
    others += [ncnn_side(layer, arrays, peak.threads)] if options.ncnn else []
    kernels = algorithms(layer, options.layout, options.algorithm, dtype)
    errors = {name: check(layer, name, ours, reference) for name in options.passes}
    for side in others:
        for name in errors.keys() & side.passes:
            check(layer, name, side, reference)
    results = []
    for name, error in errors.items():
        how = kernels[name], error, options.rounds, options.budget / len(errors)
        r = measure(layer, name, ours, theirs, *how, others)
        wait_for_other_threads()
        peak.measure()
        if r.algorithm not in FEWER_OPERATIONS:
            peak.check(r.least_rate(r.ours), f"numbaconv's {name} of {layer.name}")
        if r.theirs and their_kernels.get(name) not in FEWER_OPERATIONS:
            peak.check(r.least_rate(r.theirs), f"{theirs.name}'s {name} of {layer.name}")
        for other, seconds in r.others.items():
            if other not in FEWER_OPERATIONS:
                peak.check(r.least_rate(seconds), f"{other}'s {name} of {layer.name}")
        ratio = f", {theirs.name}'s {min(r.theirs) * 1e3:.4g}, ratio {r.ratio:.2f}" if r.theirs else ""
        further = "".join(f", {other}'s {min(seconds) * 1e3:.4g}" for other, seconds in r.others.items())
        print(
            f"{layer.network} {layer.name} {name}: {min(r.ours) * 1e3:.4g} ms{ratio}{further}, {r.rounds} rounds",
            file=sys.stderr,
        )
        results.append(r)
    return results


def peer_of(options: argparse.Namespace) -> str | None:
    """The other side's name in tables and pictures."""
    if options.layout == "HWCN":
        return "our NCHW"
    return None if options.no_torch else "PyTorch"


def run(threads: int, layers: Sequence[Layer], options: argparse.Namespace) -> tuple[list[Result], Peak]:
    """Measure everything on so many threads, of both sides and of the peak."""
    numba.set_num_threads(threads)
    if not options.no_torch:
        prepare_torch(threads)
    peak = Peak(np.dtype(options.dtype), threads)
    peak.measure(100)
    results = []
    for layer in layers:
        results += measure_layer(layer, options, peak)
    return results, peak


def describe_peak(peak: Peak, options: argparse.Namespace) -> str:
    return (
        f"Peak: {peak.flops / 1e9:.1f} GF/s in {options.dtype}, measured in the same run: {CHAINS} independent "
        f"chains of multiply-adds in registers{' on each thread' if peak.threads > 1 else ''}. GF/s count the taps "
        "in the padding as work."
    )


def command_line(arguments: Sequence[str]) -> str:
    """The command that measures this again, without the places where one reader keeps files."""
    kept, skip = [], False
    for argument in arguments:
        if not skip and argument.partition("=")[0] not in ("--json", "--plot"):
            kept.append(argument)
        skip = not skip and argument in ("--json", "--plot")
    return shlex.join(["python", "-m", "bench", *kept])


def to_json(results: Sequence[Result], peak: Peak, threads: int) -> dict:
    """One run: everything that the tables are made of."""
    entries = [
        {
            "network": r.layer.network,
            "layer": r.layer.name,
            "shape": r.layer.spec,
            "pass": r.name,
            "algorithm": r.algorithm,
            "flops": r.layer.flops(r.name),
            "error": r.error,
            "rounds": r.rounds,
            "calls_per_round": r.calls,
            "ratio": r.ratio,
            "ratio_of_medians": r.ratio_of_medians,
            "seconds_ours": r.ours,
            "seconds_theirs": r.theirs,
            **{f"seconds_{name}": seconds for name, seconds in r.others.items()},
        }
        for r in results
    ]
    return {"threads": threads, "peak_flops": peak.flops, "results": entries}


def main() -> None:
    options, layers = parse()
    keep_freed_memory()
    if hasattr(os, "getloadavg") and (load := os.getloadavg()[0]) > BUSY:
        print(f"warning: the machine is busy (load {load:.1f}), and the times will show it", file=sys.stderr)
    packages = ["NumPy", "Numba", *([] if options.no_torch else ["torch"]), *(["ncnn"] if options.ncnn else [])]
    peer = peer_of(options)
    compilation = compile_kernels(np.dtype(options.dtype))
    command = command_line(sys.argv[1:])
    reports: dict[bool, list[str]] = {False: [], True: []}
    runs = []
    for threads in options.threads:
        try:
            results, peak = run(threads, layers, options)
        except (WrongResultError, PeakError) as error:
            raise SystemExit(f"error: {error}") from None
        footer = f"Made by `{command}` on {report.footer(packages)}"
        further = [note for note in (tables.choice_note(results), tables.ncnn_note(results)) if note]
        notes = [*further, describe_peak(peak, options), compilation, footer]
        title = f"{options.layout}, {options.dtype}, {threads} thread{'s' * (threads > 1)}"
        for folded, texts in reports.items():
            texts.append(tables.make_report(title, results, peak.flops, peer, notes, folded))
        print(f"\n{reports[False][-1]}\n", flush=True)
        runs.append({**to_json(results, peak, threads), "footer": footer})
        if options.plot:
            suffix = title.replace(",", "")
            for path in plots.plot_networks(options.plot, results, peak.flops, peer, title, suffix):
                print(path, file=sys.stderr)
    if options.json:
        how = {key: getattr(options, key) for key in ("layout", "dtype", "algorithm")}
        options.json.write_text(json.dumps({**how, "peer": peer, "compilation": compilation, "runs": runs}, indent=1))
    if options.write:
        report.write_between_markers(README, MARKER, "\n\n".join(reports[True]))


if __name__ == "__main__":
    main()
