"""Calls that were checked before, so that the same one is not again.

The checks take 10 microseconds, several times what a tiny convolution does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .plan import Plan


@dataclass(frozen=True, slots=True)
class Known:
    """A call that was checked: what it runs, and the shape and dtype of its result."""

    plan: Plan
    shape: tuple[int, ...]
    dtype: np.dtype


# By everything the checks look at but alignment, which moves with every array.
known_calls: dict[Any, Known] = {}
MOST_KNOWN = 4096


def key_of(name: str, a: Any, b: Any, bias: Any, extra: Any, options: tuple[Any, ...]) -> Any:
    """What a call is known by; None for one that has to be checked each time.

    1, 1.0 and True are equal as keys and not as arguments: only integers, text and tuples of them are looked up.
    """
    stride, padding, dilation, groups, _, flip, _ = options
    if type(a) is not np.ndarray or type(b) is not np.ndarray or type(flip) is not bool:
        return None
    for option in (stride, padding, dilation, groups, extra):
        if type(option) is tuple:  # the usual ones first, without a call for each of their numbers
            for item in option:
                if type(item) is not int and not is_plain(item):
                    return None
        elif type(option) is not int and not is_plain(option):
            return None
    if bias is None:
        third = None
    elif type(bias) is np.ndarray:
        third = bias.shape, bias.strides, bias.dtype
    else:
        return None
    return name, a.shape, a.strides, a.dtype, b.shape, b.strides, b.dtype, third, extra, options


def is_plain(option: Any) -> bool:
    """Whether it is an int, a str, None, or a tuple of such."""
    if type(option) is tuple:
        return all(map(is_plain, option))
    return option is None or type(option) in (int, str)


def remember(key: Any, given: Mapping[str, Any], used: tuple[Any, ...], known: Known) -> None:
    """Keep a call that was checked, if its arrays went to the kernel as they were given."""
    if key is None or any(a is not b for a, b in zip(given.values(), used, strict=True)):
        return
    if len(known_calls) >= MOST_KNOWN:
        known_calls.clear()
    known_calls[key] = known
