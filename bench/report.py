"""What every benchmark says about itself: machine, versions, commit; and where its table goes."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import llvmlite.binding
import numba

import numbaconv

ROOT = Path(__file__).resolve().parent.parent


def cpu() -> str:
    """The CPU's own name, and the one that LLVM compiles for."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    return f"{name} ({llvmlite.binding.get_host_cpu_name()})"


def commit() -> str:
    """The commit that was measured, with a word where the code differs from it."""

    def git(*arguments: str) -> str:
        process = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return process.stdout.strip() if process.returncode == 0 else ""

    short = git("rev-parse", "--short", "HEAD")
    if not short:
        return "no commit"
    return short + (" with changes" if git("status", "--porcelain", "--", "numbaconv", "bench/*.py") else "")


def footer(packages: Iterable[str]) -> str:
    """One line: machine, threads, versions, commit."""
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {importlib.metadata.version(name.lower())}" for name in packages]
    versions += [f"numbaconv {numbaconv.__version__} ({commit()})"]
    threads = numba.get_num_threads()
    return f"{cpu()}, {threads} thread{'s' * (threads != 1)}, {platform.system()}; {', '.join(versions)}."


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column left and the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_between_markers(path: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` in a file.

    Raises
    ------
    ValueError
        If the file does not have the two markers, in this order, once each.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    content = path.read_text(encoding="utf-8")
    if content.count(begin) != 1 or content.count(end) != 1 or content.index(begin) > content.index(end):
        raise ValueError(f"{path.name} needs the line '{begin}' and after it the line '{end}', once each")
    before, after = content.partition(begin)[0], content.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
