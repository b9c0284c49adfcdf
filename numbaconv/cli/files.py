"""What can go wrong around a command: packages that are missing, files that cannot be read or written."""

from __future__ import annotations

import importlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

# What NumPy and zipfile raise for files that are absent, cut short, or no archive of plain arrays.
READ_ERRORS = (OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error)


class UserError(Exception):
    """One line that says what is wrong and what to do.

    Parameters
    ----------
    message : str
        Line breaks, which messages of other packages may contain, become spaces.
    code : int
        Exit code of the process.
    """

    def __init__(self, message: str, code: int = 2) -> None:
        super().__init__(" ".join(message.split()))
        self.code = code


def require(module: str, purpose: str, install: str = '"numbaconv[demo]"') -> Any:
    """Import an optional package, or say how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise UserError(f"{purpose} needs {package} ({error}): pip install {install}") from None


def reason(error: BaseException) -> str:
    """What went wrong, without the path, which the message names already."""
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__


def read_npz(path: str, advice: str) -> dict[str, np.ndarray]:
    """Read all arrays of an ``.npz`` file; `advice` ends the message when that fails."""
    try:
        # Opened here because NumPy leaves a damaged archive open.
        with Path(path).open("rb") as file:
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("it holds a single array")
            return dict(content)
    except READ_ERRORS as error:
        # NumPy takes whatever has no known signature for a pickle, and its message is about that.
        text = "it is no .npz file" if "pickle" in str(error) else reason(error)
        raise UserError(f"cannot read {path}: {text}; {advice}") from None


def output_path(name: str, option: str) -> Path:
    """Check that a file can be written, before hours of work depend on it, and return its path."""
    try:
        path = Path(name).expanduser().resolve()  # a link stays a link, and what it points to is replaced
        if path.exists() and not path.is_file():
            raise OSError(f"it is a {'folder' if path.is_dir() else 'special file'}")
        if path.exists() and not os.access(path, os.W_OK):
            raise OSError("it is write-protected")
        temporary = _temporary(path)
        temporary.touch()
        temporary.unlink()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        hint = f"choose a file in a folder that exists and can be written, with {option} FILE"
        raise UserError(f"cannot write {name}: {reason(error)}; {hint}") from None
    return path


def write(path: Path, content: Callable[[IO[bytes]], object]) -> None:
    """Let `content` write the file; whatever happens, the old file or the new one is there in full."""
    temporary = _temporary(path)
    try:
        with temporary.open("wb") as file:
            content(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {reason(error)}; make room or write elsewhere", 1) from None
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    # In the same folder, because a rename is atomic only within one file system.
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")
