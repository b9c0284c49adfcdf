"""Valid calls of all four functions to spoil one argument of, and the check of the error that follows."""

import re

import numpy as np
import pytest

import numbaconv

SENTINEL = 77


def valid_arguments(name, dtype=np.float32):
    """Keyword arguments of a call of `name` that works, `out` included; no two extents are the same."""
    x, y = np.ones((2, 4, 8, 9), dtype), np.ones((2, 6, 6, 8), dtype)
    weight, bias = np.ones((6, 4, 3, 2), dtype), np.ones(6, dtype)
    arguments, result = {
        "conv2d": ({"x": x, "weight": weight, "bias": bias}, y),
        "conv2d_input_grad": ({"dy": y, "weight": weight, "input_shape": x.shape}, x),
        "conv2d_weight_grad": ({"x": x, "dy": y, "kernel_size": (3, 2)}, weight),
        "conv2d_bias_grad": ({"dy": y}, bias),
    }[name]
    return arguments | {"out": np.full(result.shape, SENTINEL, dtype)}


def assert_refused(error, name, changes, words, dtype=np.float32):
    """The call with `changes` raises `error`, says each of `words`, and leaves `out` as it was."""
    arguments = valid_arguments(name, dtype) | changes
    with pytest.raises(error) as caught:
        getattr(numbaconv, name)(**arguments)
    assert_says(caught.value, words)
    assert (arguments["out"] == SENTINEL).all()


def assert_says(error, words):
    """Each of `words` is in the message of `error` as a word of its own."""
    message = str(error)
    for word in words:
        assert re.search(rf"(?<![\w.]){re.escape(str(word))}(?![\w])", message), f"{word!r} is not in {message!r}"
