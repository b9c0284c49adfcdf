"""Which kernel computes a pass: the only place that chooses."""

from __future__ import annotations

from typing import Any

ALGORITHMS = ("auto", "loops")


def choose_algorithm(algorithm: Any) -> str:
    """Return the algorithm that runs when the user asks for `algorithm`.

    Raises
    ------
    TypeError
        If it is no string.
    ValueError
        If there is no such algorithm.
    """
    if not isinstance(algorithm, str):
        raise TypeError(f"algorithm must be a string, got {algorithm!r}")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(map(repr, ALGORITHMS))}, got {algorithm!r}")
    return "loops"
