"""The sides of the comparison: numbaconv's passes, PyTorch's and ncnn's, on the same arrays."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import numbaconv
from bench.shapes import Layer
from numbaconv.geometry import LAYOUTS
from numbaconv.plan import winograd

Pass = Callable[[], Any]
Arrays = dict[str, np.ndarray]
# What `auto` chooses between where Winograd's algorithm can do the layer.
CHOICES = ("direct", "winograd")


@dataclass(frozen=True)
class Side:
    """Passes by name, y, dx, dw and db; `to_nchw(name, result)` is the result in the order N, C, H, W."""

    name: str
    passes: dict[str, Pass]
    to_nchw: Callable[[str, Any], np.ndarray]


def make_arrays(layer: Layer, dtype: np.dtype) -> Arrays:
    """Normal data in the order N, C, H, W."""
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype) for name, shape in layer.shapes.items()}


def arrange(arrays: Arrays, layout: str) -> Arrays:
    """The same with x and dy C-contiguous in `layout`."""
    order = np.argsort(LAYOUTS[layout])
    return {
        name: np.ascontiguousarray(array.transpose(order)) if name in ("x", "dy") else array
        for name, array in arrays.items()
    }


def options_of(layer: Layer) -> dict[str, Any]:
    """What both sides call by the same name."""
    return {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
    }


def numbaconv_side(name: str, layer: Layer, arrays: Arrays, layout: str, algorithm: str) -> Side:
    """This project on arrays arranged in `layout`."""
    x, weight, bias, dy = (arrays[key] for key in ("x", "weight", "bias", "dy"))
    how = {**options_of(layer), "layout": layout, "algorithm": algorithm}
    passes = {
        "y": partial(numbaconv.conv2d, x, weight, bias, **how),
        "dx": partial(numbaconv.conv2d_input_grad, dy, weight, x.shape, **how),
        "dw": partial(numbaconv.conv2d_weight_grad, x, dy, (layer.KH, layer.KW), **how),
        "db": partial(numbaconv.conv2d_bias_grad, dy, layout=layout),
    }

    def to_nchw(key: str, result: np.ndarray) -> np.ndarray:
        return result.transpose(LAYOUTS[layout]) if key in ("y", "dx") else result

    return Side(name, passes, to_nchw)


def choice_sides(layer: Layer, arrays: Arrays, layout: str) -> list[Side]:
    """What `auto` chooses between, of what has a name, or nothing where it has no choice; db is not theirs."""
    names = CHOICES
    if not winograd.supports((layer.KH, layer.KW), layer.stride, layer.dilation):
        chosen = algorithms(layer, layout, "auto", arrays["x"].dtype)
        names = CHOICES[:1] if CHOICES[1] in chosen.values() else ()
    sides = [numbaconv_side(algorithm, layer, arrays, layout, algorithm) for algorithm in names]
    for side in sides:
        del side.passes["db"]
    return sides


def algorithms(layer: Layer, layout: str, algorithm: str, dtype: np.dtype) -> dict[str, str]:
    """The algorithm that each pass runs."""
    shape = tuple(layer.shapes["x"][axis] for axis in np.argsort(LAYOUTS[layout]))
    how = {**options_of(layer), "layout": layout, "algorithm": algorithm, "dtype": dtype}
    plans = numbaconv.explain(shape, layer.shapes["weight"], **how).plans
    return {**{name: plan.algorithm for name, plan in zip(("y", "dx", "dw"), plans, strict=True)}, "db": "sum"}


def prepare_torch(threads: int) -> None:
    """Threads of every PyTorch call from here on, none of which records anything for a gradient."""
    import torch

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)


def torch_side(layer: Layer, arrays: Arrays, layout: str) -> Side:
    """PyTorch on the memory of `arrays`, which are arranged in NCHW or NHWC.

    In NHWC its tensors are channels_last, the weight too, as its users make it. The functions are called as
    directly as Python can, past `torch.nn` and autograd, and each computes the one result that is timed.
    """
    import torch

    x, weight, bias, dy = (torch.from_numpy(arrays[key]) for key in ("x", "weight", "bias", "dy"))
    if layout == "NHWC":
        x, dy = x.permute(0, 3, 1, 2), dy.permute(0, 3, 1, 2)
        weight = weight.contiguous(memory_format=torch.channels_last)
    stride, padding, dilation = layer.stride, layer.padding, layer.dilation

    def backward(*wanted: bool) -> Pass:
        function = torch.ops.aten.convolution_backward.default
        geometry = (stride, padding, dilation, False, (0, 0), layer.groups)
        return partial(function, dy, x, weight, (layer.F,), *geometry, wanted)

    passes = {
        "y": partial(torch.conv2d, x, weight, bias, stride, padding, dilation, layer.groups),
        "dx": backward(True, False, False),
        "dw": backward(False, True, False),
        # Asked for the bias alone, convolution_backward computes dw beside it; the plain sum is faster.
        "db": partial(torch.sum, dy, (0, 2, 3)),
    }

    def to_nchw(key: str, result: Any) -> np.ndarray:
        return (result[("dx", "dw").index(key)] if key in ("dx", "dw") else result).numpy()

    return Side("PyTorch", passes, to_nchw)


def ncnn_side(layer: Layer, arrays: Arrays, threads: int) -> Side:
    """ncnn's forward pass on float32 in NCHW, one image after the other, because it has no batch.

    A network of one layer, with the weight transformed when it is loaded. Its images are read where they lie. What it
    does to have channels in vectors, and to bring y back to NCHW, is in the time, as it is in ours.
    """
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = threads
    net.opt.use_winograd_convolution = True
    for name in dir(net.opt):
        if name.startswith(("use_fp16", "use_bf16", "use_int8", "use_vulkan")):
            setattr(net.opt, name, False)
    x, weight, bias = (np.ascontiguousarray(arrays[key]) for key in ("x", "weight", "bias"))
    kind = "Convolution" if layer.groups == 1 else "ConvolutionDepthWise"
    with tempfile.TemporaryDirectory() as folder:
        description, data = Path(folder, "layer.param"), Path(folder, "layer.bin")
        # Magic number, numbers of layers and blobs, and each layer with the names of its inputs and outputs.
        description.write_text(f"7767517\n2 2\nInput in 0 1 x\n{kind} conv 1 1 x y {_ncnn_parameters(layer)}\n")
        # A word for float32, the weight as ours has it, the bias.
        data.write_bytes(bytes(4) + weight.tobytes() + bias.tobytes())
        if net.load_param(str(description)) or net.load_model(str(data)):
            raise RuntimeError(f"ncnn does not load {layer.name} ({layer.spec})")
    images = [(ncnn.Mat(image), image) for image in x]  # a Mat reads the array's memory, and has to be outlived by it

    def forward() -> list[Any]:
        results = []
        for image, _ in images:
            extractor = net.create_extractor()
            extractor.input("x", image)
            results.append(extractor.extract("y")[1])
        return results

    def to_nchw(key: str, result: Any) -> np.ndarray:
        return np.stack([np.array(image) for image in result])

    return Side("ncnn", {"y": forward}, to_nchw)


def _ncnn_parameters(layer: Layer) -> str:
    """The layer by ncnn's numbers."""
    (vertical, horizontal), (top, left), (down, right) = layer.stride, layer.padding, layer.dilation
    numbers = {0: layer.F, 1: layer.KW, 11: layer.KH, 2: right, 12: down, 3: horizontal, 13: vertical}
    numbers |= {4: left, 14: top, 5: 1, 6: layer.F * layer.C // layer.groups * layer.KH * layer.KW}
    numbers |= {7: layer.groups} if layer.groups > 1 else {}
    return " ".join(f"{key}={value}" for key, value in numbers.items())
