"""The layers that `python -m bench` measures: networks, the user's own, random ones, tiny ones."""

from __future__ import annotations

import json
import math
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

LAYERS = Path(__file__).with_name("layers.json")
# Networks for images of 224 pixels, which run with a smaller batch than those for small images.
LARGE = ("resnet50", "vgg16", "mobilenet_v1", "alexnet", "resnext50")
LARGE_BATCH, SMALL_BATCH = 4, 32

# Random layers: work of a pass, so that a run of 50 ends within minutes, and bytes of an activation in float32.
FLOPS = (1_000_000, 4_000_000_000)
ACTIVATION_BYTES = 64 << 20

SPEC = "N,C,H,W,F,KH,KW[,stride,padding,dilation,groups]"
PASSES = ("y", "dx", "dw", "db")


@dataclass(frozen=True)
class Layer:
    """One layer with its batch; pairs are (vertical, horizontal)."""

    network: str
    name: str
    N: int
    C: int
    H: int
    W: int
    F: int
    KH: int
    KW: int
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        positive = (self.C, self.H, self.W, self.F, self.KH, self.KW, *self.stride, *self.dilation, self.groups)
        if min(self.N, *positive) < 1 or min(self.padding) < 0:
            raise ValueError(f"{self.spec}: extents start at 1, padding at 0")
        if self.C % self.groups or self.F % self.groups:
            raise ValueError(f"{self.spec}: {self.groups} groups do not divide C = {self.C} and F = {self.F}")
        if min(self.OH, self.OW) < 1:
            raise ValueError(f"{self.spec}: the kernel is larger than the padded image")

    @property
    def OH(self) -> int:
        return (self.H + 2 * self.padding[0] - self.dilation[0] * (self.KH - 1) - 1) // self.stride[0] + 1

    @property
    def OW(self) -> int:
        return (self.W + 2 * self.padding[1] - self.dilation[1] * (self.KW - 1) - 1) // self.stride[1] + 1

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes in the order N, C, H, W."""
        return {
            "x": (self.N, self.C, self.H, self.W),
            "weight": (self.F, self.C // self.groups, self.KH, self.KW),
            "bias": (self.F,),
            "dy": (self.N, self.F, self.OH, self.OW),
        }

    def flops(self, name: str) -> int:
        """Floating-point operations of a pass, the taps that fall into the padding included."""
        outputs = self.N * self.F * self.OH * self.OW
        return outputs if name == "db" else 2 * outputs * (self.C // self.groups) * self.KH * self.KW

    def least_flops(self, name: str) -> int:
        """Floating-point operations of a pass that skips every tap in the padding: what no kernel does without."""
        if name == "db":
            return self.flops(name)
        rows = _taps_inside(self.H, self.OH, self.KH, self.stride[0], self.padding[0], self.dilation[0])
        columns = _taps_inside(self.W, self.OW, self.KW, self.stride[1], self.padding[1], self.dilation[1])
        return 2 * self.N * self.F * (self.C // self.groups) * rows * columns

    @property
    def kind(self) -> str:
        if self.groups > 1:
            return "depthwise and grouped"
        return "first layers (C <= 3)" if self.C <= 3 else "dense"

    @property
    def spec(self) -> str:
        """The layer as `--shape` takes it."""
        pairs = map(_pair, (self.stride, self.padding, self.dilation))
        numbers = (self.N, self.C, self.H, self.W, self.F, self.KH, self.KW, *pairs, self.groups)
        return ",".join(map(str, numbers))


def _taps_inside(extent: int, outputs: int, taps: int, stride: int, padding: int, dilation: int) -> int:
    """Pairs of an output and a tap that meet inside the image, along one axis."""
    return sum(
        0 <= output * stride - padding + tap * dilation < extent for output in range(outputs) for tap in range(taps)
    )


def _pair(values: tuple[int, int]) -> str:
    """One number for two that are equal."""
    return str(values[0]) if values[0] == values[1] else f"{values[0]}x{values[1]}"


def describe(layer: Layer) -> str:
    """A name like those in layers.json, with the batch and everything that is not the default."""
    words = [f"{layer.N} of {layer.C}>{layer.F}@{_pair((layer.H, layer.W))}"]
    words += [f"{layer.KH}x{layer.KW}/{_pair(layer.stride)}"]
    words += [f"pad {_pair(layer.padding)}"] * (layer.padding != (0, 0))
    words += [f"dilation {_pair(layer.dilation)}"] * (layer.dilation != (1, 1))
    words += [f"groups {layer.groups}"] * (layer.groups > 1)
    return " ".join(words)


def named(network: str, *extents: int, **options: object) -> Layer:
    """A layer that is called what it is."""
    unnamed = Layer(network, "", *extents, **options)
    return Layer(network, describe(unnamed), *extents, **options)


# -- sets --------------------------------------------------------------------------------------------


def networks() -> list[str]:
    """Names of the networks in layers.json, in its order."""
    return list(dict.fromkeys(entry["network"] for entry in json.loads(LAYERS.read_text())))


def network_layers(names: Sequence[str], batch: int | None = None) -> Iterator[Layer]:
    """Layers of these networks, with the batch that a network of its kind is measured with.

    Raises
    ------
    ValueError
        If there is no network of a name.
    """
    for name in names:
        if name not in networks():
            raise ValueError(f"there is no network {name!r}: {', '.join(networks())}")
    for entry in json.loads(LAYERS.read_text()):
        if entry["network"] in names:
            N = batch or (LARGE_BATCH if entry["network"] in LARGE else SMALL_BATCH)
            square = {key: (entry.pop(key),) * 2 for key in ("stride", "padding")}
            yield Layer(N=N, **entry, **square)


def parse_shape(text: str) -> Layer:
    """A layer from what `--shape` got: numbers, and AxB for a stride, padding or dilation of two values.

    Raises
    ------
    ValueError
        If it does not have this form, or is no layer.
    """
    parts = [part.strip() for part in text.split(",")]
    if not 7 <= len(parts) <= 11:
        raise ValueError(f"--shape takes {SPEC}, got {text!r}")
    pairs = {}
    for i, part in enumerate(parts):
        is_pair = i in (7, 8, 9)
        if not re.fullmatch(r"\d+(x\d+)?" if is_pair else r"\d+", part):
            raise ValueError(f"--shape takes {SPEC}, each a number, got {part!r} in {text!r}")
        if is_pair:
            values = [int(value) for value in part.split("x")]
            pairs[("stride", "padding", "dilation")[i - 7]] = (values[0], values[-1])
    groups = int(parts[10]) if len(parts) == 11 else 1
    return named("shapes", *map(int, parts[:7]), **pairs, groups=groups)


def tiny_layers() -> list[Layer]:
    """Layers whose time is that of the call."""
    sizes = ((8, 8, 8), (16, 16, 16), (1, 12, 4))
    return [named("tiny", 1, C, extent, extent, F, 3, 3, padding=(1, 1)) for C, extent, F in sizes]


def random_layers(count: int, seed: int) -> list[Layer]:
    """Layers that nobody chose, the same for one seed; a larger count has those of a smaller one first."""
    rng = random.Random(seed)
    layers: list[Layer] = []
    while len(layers) < count:
        layer = _draw(rng, f"random, seed {seed}")
        if layer and layer not in layers:
            layers.append(layer)
    return layers


def _draw(rng: random.Random, network: str) -> Layer | None:
    """One draw; None if it is no layer, or one that is too small or too large to be measured well."""

    def log_uniform(low: int, high: int) -> int:
        return round(math.exp(rng.uniform(math.log(low), math.log(high))))

    def channels() -> int:
        """Half of them multiples of 8, as in most networks."""
        value = log_uniform(1, 512)
        return -(-value // 8) * 8 if rng.random() < 0.5 else value

    N = rng.choice((1, 2, 3, 4, 8, 16, 32))
    C, F = channels(), channels()
    if rng.random() < 0.15:  # a first layer: grey or colour
        C = rng.choice((1, 3))
    H = log_uniform(5, 224)
    W = H if rng.random() < 0.7 else log_uniform(5, 224)
    KH = rng.choices(range(1, 8), (30, 6, 34, 4, 14, 4, 8))[0]
    KW = KH if rng.random() < 0.85 else rng.randint(1, 7)
    stride = rng.choices((1, 2, 3), (6, 3, 1))[0]
    dilation = rng.choices((1, 2), (9, 1))[0] if KH * KW > 1 else 1
    groups = 1
    grouping = rng.random()
    if grouping < 0.12:  # depthwise, sometimes with two filters a channel
        groups, F = C, C * rng.choice((1, 1, 2))
    elif grouping < 0.25:
        groups = rng.choice((2, 4, 8, 32))
        C, F = (max(1, round(value / groups)) * groups for value in (C, F))
    same = (dilation * (KH - 1) // 2, dilation * (KW - 1) // 2)
    padding = rng.choices((same, (0, 0), (rng.randrange(KH), rng.randrange(KW))), (6, 2, 2))[0]
    try:
        layer = named(
            network,
            *(N, C, H, W, F, KH, KW),
            stride=(stride, stride),
            padding=padding,
            dilation=(dilation, dilation),
            groups=groups,
        )
    except ValueError:  # the kernel does not fit
        return None
    largest = 4 * max(math.prod(layer.shapes["x"]), math.prod(layer.shapes["dy"]))
    return layer if FLOPS[0] <= layer.flops("y") <= FLOPS[1] and largest <= ACTIVATION_BYTES else None
