"""Gradients checked against central differences, for any layer or function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .arrays import Array


@dataclass(frozen=True)
class GradientError:
    """How far one gradient is from its central difference, at its worst element."""

    name: str
    index: tuple[int, ...]
    analytic: float
    numeric: float
    error: float
    tolerance: float
    checked: int

    @property
    def passed(self) -> bool:
        """Whether the worst element lies within the tolerance; a NaN does not."""
        return self.error <= self.tolerance

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "FAIL"
        where = "".join(f"[{i}]" for i in self.index)
        return (
            f"{verdict} {self.name}: {self.checked} elements, worst {self.name}{where}: analytic "
            f"{self.analytic:.9g}, numeric {self.numeric:.9g}, error {self.error:.2g} "
            f"(tolerance {self.tolerance:.2g})"
        )


@dataclass(frozen=True)
class GradcheckReport:
    """One :class:`GradientError` per gradient; true where all passed, and prints as a table."""

    errors: tuple[GradientError, ...]

    @property
    def passed(self) -> bool:
        """Whether every gradient passed."""
        return all(error.passed for error in self.errors)

    @property
    def worst(self) -> GradientError:
        """The gradient that is farthest off, measured in its tolerance."""
        return max(self.errors, key=lambda e: np.inf if np.isnan(e.error) else e.error / e.tolerance)

    def __bool__(self) -> bool:
        return self.passed

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


def gradcheck(
    target: Any,
    *inputs: Array,
    gradient: Callable[..., Any] | None = None,
    names: Sequence[str] | None = None,
    eps: float | None = None,
    rtol: float | None = None,
    max_elements: int = 200,
    rng: int | np.random.Generator = 0,
) -> GradcheckReport:
    """Compare the gradients of a layer or a function with central differences.

    The loss is the sum of y * dy for a random dy, so that the gradient with respect to y is dy.

    Parameters
    ----------
    target : layer or callable
        A layer has ``forward(x)``, ``backward(dy)`` that returns dx, and ``parameters()`` that yields
        (name, parameter, gradient); its input and all its parameters are checked. A callable takes
        `inputs` and returns y.
    *inputs : ndarray of float32 or float64
        Where the gradient is taken: x for a layer, all arguments for a callable. Changed in place
        while the check runs, and restored.
    gradient : callable, optional
        For a callable `target`: takes (dy, *inputs) and returns one gradient per input, None for one
        that is not to be checked.
    names : sequence of str, optional
        Names of the inputs in the report; default x, or input 0, input 1, ...
    eps : float, optional
        Step, relative to max(1, abs(value)). Default: the cube root of the unit round-off, the step
        at which truncation and rounding meet.
    rtol : float, optional
        Tolerance, relative to the largest gradient of an array and at least to 1. Default: the square
        root of the unit round-off in float64, 20 times that in float32.
    max_elements : int
        Elements checked per array, drawn at random from larger ones.
    rng : int or numpy.random.Generator
        Seed of dy and of the drawn elements.

    Returns
    -------
    GradcheckReport
        ``bool(report)`` says whether all passed; ``print(report)`` names the worst elements.

    Raises
    ------
    TypeError
        If an input is not a floating-point ndarray, or a callable comes without `gradient`.
    ValueError
        If a gradient has another shape than its input, or there is nothing to check.

    Notes
    -----
    (L(v + h) - L(v - h)) / 2h, summed in float64; see Press et al., Numerical Recipes, 3rd ed., 5.7.

    Examples
    --------
    >>> import numpy as np, numbaconv
    >>> layer = numbaconv.Conv2D(2, 3, 3, stride=2, dtype=np.float64, rng=0)
    >>> bool(gradcheck(layer, np.random.default_rng(0).normal(size=(2, 2, 7, 7))))
    True
    """
    for value in inputs:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            raise TypeError(f"inputs must be floating-point ndarrays, got {value!r}")
    if not inputs:
        raise ValueError("inputs must hold at least one array")
    generator = np.random.default_rng(rng)
    is_layer = hasattr(target, "forward") and hasattr(target, "backward")
    function = target.forward if is_layer else target
    y = function(*inputs)
    dy = generator.uniform(0.5, 1.5, y.shape).astype(y.dtype) * generator.choice([-1, 1], y.shape).astype(y.dtype)

    labels = list(names) if names is not None else []
    labels = labels or (["x"] if len(inputs) == 1 else [f"input {i}" for i in range(len(inputs))])
    if is_layer:
        gradients = [target.backward(dy)]
        checked = list(zip(labels, inputs, gradients, strict=True))
        checked += [(name, parameter, grad) for name, parameter, grad in target.parameters()]
    elif gradient is None:
        raise TypeError("gradient must be given for a callable target: gradient(dy, *inputs)")
    else:
        gradients = gradient(dy, *inputs)
        gradients = list(gradients) if isinstance(gradients, tuple | list) else [gradients]
        checked = list(zip(labels, inputs, gradients, strict=True))

    def loss() -> float:
        return float(np.sum(np.multiply(function(*inputs), dy, dtype=np.float64)))

    errors = tuple(
        _compare(name, value, grad, loss, eps, rtol, max_elements, generator)
        for name, value, grad in checked
        if grad is not None and value.size
    )
    if not errors:
        raise ValueError("there is nothing to check: every gradient is None or every input empty")
    return GradcheckReport(errors)


def _compare(
    name: str,
    value: Array,
    grad: Array,
    loss: Callable[[], float],
    eps: float | None,
    rtol: float | None,
    max_elements: int,
    generator: np.random.Generator,
) -> GradientError:
    """Move the elements of `value` one by one and compare the change of the loss with `grad`."""
    if grad.shape != value.shape:
        raise ValueError(f"the gradient of {name} must have shape {value.shape}, got {grad.shape}")
    unit = float(np.finfo(value.dtype).eps)
    step = eps if eps is not None else unit ** (1 / 3)
    relative = rtol if rtol is not None else np.sqrt(unit) * (20 if value.dtype == np.float32 else 1)
    drawn = np.arange(value.size)
    if value.size > max_elements:
        drawn = np.sort(generator.choice(value.size, max_elements, replace=False))
    # Infinity is as far off as can be, and must not widen its own tolerance.
    largest = float(np.max(np.abs(grad), initial=0.0, where=np.isfinite(grad)))
    tolerance = relative * max(1.0, largest)
    worst: tuple[float, tuple[int, ...], float, float] = (-1.0, (), 0.0, 0.0)
    for flat in drawn:
        index = tuple(int(i) for i in np.unravel_index(flat, value.shape))
        old = value[index]
        move = step * max(1.0, abs(float(old)))
        try:
            value[index] = old + move
            upper, above = float(value[index]), loss()
            value[index] = old - move
            lower, below = float(value[index]), loss()
        finally:
            value[index] = old
        numeric = (above - below) / (upper - lower)  # the step as it was rounded
        error = abs(float(grad[index]) - numeric)
        if not error <= worst[0]:  # true for NaN, which stays the worst
            worst = (error, index, float(grad[index]), numeric)
            if np.isnan(error):
                break
    error, index, analytic, numeric = worst
    return GradientError(name, index, analytic, numeric, error, tolerance, len(drawn))
