"""The named shape list, and the lists that every parametrised test runs over."""

import math
from dataclasses import dataclass

import numpy as np
import pytest

from .oracle import Taps

# Every name that `algorithm=` takes beside "auto". Winograd alone makes no promise of exactness.
ALGORITHMS = ("loops", "direct", "winograd")
EXACT_ALGORITHMS = tuple(name for name in ALGORITHMS if name != "winograd")
LAYOUTS = ("NCHW", "NHWC", "HWCN")
DTYPES = (np.float32, np.float64)
PASSES = ("conv2d", "conv2d_input_grad", "conv2d_weight_grad", "conv2d_bias_grad")

each_algorithm = pytest.mark.parametrize("algorithm", ALGORITHMS)
each_exact_algorithm = pytest.mark.parametrize("algorithm", EXACT_ALGORITHMS)
each_layout = pytest.mark.parametrize("layout", LAYOUTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: dtype.__name__)
each_pass = pytest.mark.parametrize("name", PASSES)
each_gradient = pytest.mark.parametrize("name", PASSES[1:])


def each_run(algorithms, names=PASSES):
    """Parametrise over `algorithm` and `name`; conv2d_bias_grad takes no algorithm, and comes once."""
    first = algorithms[:1]
    runs = [(a, name) for name in names for a in (first if name == "conv2d_bias_grad" else algorithms)]
    return pytest.mark.parametrize(("algorithm", "name"), runs)


each_pass_and_algorithm = each_run(ALGORITHMS)
each_exact_pass = each_run(EXACT_ALGORITHMS)
each_exact_gradient = each_run(EXACT_ALGORITHMS, PASSES[1:])


@dataclass(frozen=True)
class Case:
    """The extents and options of one convolution, in every layout."""

    name: str
    N: int
    C: int
    H: int
    W: int
    F: int
    KH: int
    KW: int
    stride: int | tuple = 1
    padding: int | str | tuple = 0
    dilation: int | tuple = 1
    groups: int = 1

    def __str__(self):
        return self.name

    @property
    def outputs(self):
        """(OH, OW)"""
        return Taps((self.H, self.W), (self.KH, self.KW), self.stride, self.padding, self.dilation).outputs

    def input_shape(self, layout):
        return in_layout(layout, self.N, self.C, self.H, self.W)

    def output_shape(self, layout):
        return in_layout(layout, self.N, self.F, *self.outputs)

    @property
    def weight_shape(self):
        return (self.F, self.C // self.groups, self.KH, self.KW)

    @property
    def products(self):
        """How many products a pass sums."""
        OH, OW = self.outputs
        return self.N * OH * OW * math.prod(self.weight_shape)

    def options(self):
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    def supports(self, algorithm):
        """Whether `algorithm` can do this case at all; only Winograd is choosy."""
        stride, dilation = ((v, v) if isinstance(v, int) else v for v in (self.stride, self.dilation))
        return algorithm != "winograd" or winograd_can((self.KH, self.KW), stride, dilation)

    @property
    def has_winograd(self):
        """Whether users may name Winograd's algorithm, which then keeps its bound of rounding."""
        return (self.KH, self.KW) == (3, 3) and all(v in (1, (1, 1)) for v in (self.stride, self.dilation))


def winograd_can(kernel_size, stride, dilation):
    """Whether there is a variant of Winograd's algorithm, which "auto" may take where it pays."""
    if dilation != (1, 1):
        return kernel_size in ((3, 3), (4, 4), (5, 5)) and stride == (1, 1) and math.prod(dilation) <= 16
    return kernel_size[0] >= stride[0] and kernel_size[1] >= stride[1]


def in_layout(layout, N, C, H, W):
    return tuple({"N": N, "C": C, "H": H, "W": W}[axis] for axis in layout)


# A vector holds 8 floats or 4 doubles, a register tile is near 6 filters by 16 pixels: each extent that can
# be vectorised, tiled or blocked is here at one below, at, and one above those sizes.
TAILS = (
    *(Case(f"tail_ow{OW}", 2, 3, 5, OW + 2, 6, 3, 3) for OW in (1, 3, 4, 5, 7, 8, 9, 15, 16, 17, 33)),
    *(Case(f"tail_f{F}", 1, 3, 6, 10, F, 3, 3, padding=1) for F in (1, 5, 6, 7, 8, 12, 13, 17)),
    *(Case(f"tail_c{C}", 1, C, 6, 7, 5, 3, 3, padding=1) for C in (1, 2, 4, 7, 8, 9, 15, 16, 17)),
    *(Case(f"tail_n{N}", N, 3, 4, 5, 4, 3, 3, padding=1) for N in (1, 7, 8, 9, 16, 17)),
    *(Case(f"tail_1x1_pixels{W}", 1, 5, 1, W, 7, 1, 1) for W in (1, 15, 16, 17)),
    *(
        Case(f"tail_groups_of_{G}", 2, 5 * G + 20, 5, 9, 5 * G + 20, 3, 3, padding=1, groups=5 + 20 // G)
        for G in (2, 4)
    ),
    *(Case(f"tail_1x1_f{F}", 2, 20, 4, 7, F, 1, 1) for F in (3, 5, 9, 15, 19, 37)),
)

SHAPES = (
    Case("single_element", 1, 1, 1, 1, 1, 1, 1),
    Case("pointwise", 2, 9, 6, 5, 11, 1, 1),
    Case("pointwise_strided", 2, 5, 7, 8, 6, 1, 1, stride=2),
    Case("pointwise_padded", 1, 3, 4, 5, 4, 1, 1, padding=2),
    Case("row_kernel", 2, 3, 5, 12, 4, 1, 5, padding=(0, 2)),
    Case("column_kernel", 2, 3, 12, 5, 4, 5, 1, padding=(2, 0)),
    Case("tall_kernel", 1, 2, 9, 7, 3, 4, 2),
    Case("wide_kernel", 1, 2, 7, 9, 3, 2, 5, padding=(1, 2)),
    Case("even_kernel", 2, 3, 6, 6, 4, 2, 2, padding=1),
    Case("five", 1, 4, 9, 11, 5, 5, 5, padding=2),
    Case("dilated", 2, 20, 11, 14, 18, 3, 3, padding=2, dilation=2),
    Case("dilated_unevenly", 2, 7, 13, 17, 9, 3, 3, padding=((3, 0), (1, 4)), dilation=(3, 2)),
    Case("dilated_far", 1, 18, 9, 21, 5, 3, 3, padding=(4, 5), dilation=(4, 4)),
    Case("four", 2, 18, 8, 10, 7, 4, 4, padding=((1, 2), (2, 1))),
    Case("dilated_five", 2, 6, 15, 12, 17, 5, 5, padding=2, dilation=(2, 1)),
    Case("five_grouped", 3, 40, 7, 12, 36, 5, 5, padding=((2, 1), (0, 4)), groups=2),
    Case("seven_stride2", 1, 3, 15, 17, 7, 7, 7, stride=2, padding=3),
    Case("stride2", 2, 4, 8, 9, 5, 3, 3, stride=2, padding=1),
    Case("stride3", 1, 3, 11, 10, 4, 3, 3, stride=3, padding=1),
    Case("stride_vertical", 1, 3, 9, 8, 4, 3, 3, stride=(2, 1), padding=1),
    Case("stride_horizontal", 1, 3, 8, 9, 4, 3, 3, stride=(1, 3), padding=1),
    Case("stride_above_kernel", 2, 3, 13, 14, 4, 2, 3, stride=(5, 4)),
    Case("stride_above_input", 1, 2, 4, 5, 3, 2, 2, stride=(9, 7)),
    Case("rows_not_reached", 1, 3, 10, 9, 4, 3, 2, stride=4),
    Case("rows_not_reached_padded", 2, 2, 9, 10, 3, 3, 3, stride=(4, 3), padding=((1, 0), (0, 1))),
    Case("dilated", 2, 3, 9, 10, 4, 3, 3, dilation=2, padding=2),
    Case("dilated_unequal", 1, 3, 10, 11, 4, 3, 2, dilation=(2, 3), padding=(1, 2)),
    Case("dilated_strided", 1, 3, 13, 12, 4, 3, 3, stride=2, dilation=3, padding=3),
    Case("dilated_stride_shares_factor", 1, 2, 14, 13, 3, 3, 3, stride=(4, 3), dilation=(2, 3), padding=1),
    Case("asymmetric", 2, 3, 6, 7, 4, 3, 3, padding=((0, 2), (1, 0))),
    Case("asymmetric_strided", 1, 3, 7, 8, 4, 3, 4, stride=(2, 3), padding=((2, 1), (0, 3))),
    Case("padding_lists", 1, 2, 5, 6, 3, 3, 3, padding=[[1, 0], [2, 1]]),
    Case("padding_above_kernel", 1, 2, 3, 4, 3, 2, 2, padding=4),
    Case("padding_valid", 1, 2, 6, 7, 3, 3, 3, padding="valid"),
    Case("same", 2, 3, 6, 7, 4, 3, 3, padding="same"),
    Case("same_even_strided", 1, 3, 7, 8, 4, 4, 2, stride=(2, 3), padding="same"),
    Case("same_lower_even", 1, 3, 6, 7, 4, 2, 4, padding="same_lower"),
    Case("same_lower_dilated", 1, 2, 8, 9, 3, 2, 3, stride=2, dilation=(3, 2), padding="same_lower"),
    Case("kernel_as_input", 2, 3, 4, 5, 6, 4, 5),
    Case("kernel_as_padded_input", 2, 3, 3, 4, 5, 5, 7, padding=((1, 1), (1, 2))),
    Case("dilated_kernel_as_input", 1, 2, 7, 5, 3, 3, 3, dilation=(3, 2)),
    Case("grouped", 2, 6, 6, 7, 8, 3, 3, padding=1, groups=2),
    Case("grouped_uneven", 1, 9, 6, 5, 6, 3, 3, stride=2, padding=1, groups=3),
    Case("grouped_pointwise", 1, 12, 3, 5, 20, 1, 1, groups=4),
    Case("pointwise_to_fewer", 2, 16, 7, 9, 4, 1, 1),
    Case("grouped_pointwise_to_fewer", 2, 16, 7, 9, 4, 1, 1, groups=2),
    Case("depthwise", 2, 9, 7, 8, 9, 3, 3, padding=1, groups=9),
    Case("depthwise_multiplier", 1, 5, 6, 9, 15, 3, 3, stride=2, padding=1, groups=5),
    Case("depthwise_dilated", 1, 8, 9, 9, 8, 3, 3, dilation=2, padding=2, groups=8),
    Case("depthwise_whole_vectors", 2, 32, 7, 12, 32, 3, 3, padding=((1, 2), (0, 1)), groups=32),
    Case("depthwise_whole_strided", 1, 32, 13, 17, 32, 3, 2, stride=(2, 3), padding=1, groups=32),
    Case("depthwise_whole_dilated", 1, 16, 9, 14, 16, 2, 3, padding=(0, 5), dilation=(3, 2), groups=16),
    Case("depthwise_wide", 2, 80, 7, 14, 80, 3, 3, padding=1, groups=80),
    Case("depthwise_wide_strided", 1, 80, 13, 17, 80, 5, 2, stride=(2, 3), padding=1, groups=80),
    Case("column_map", 1, 3, 40, 1, 4, 3, 1),
    Case("row_map", 1, 3, 1, 40, 4, 1, 3),
    Case("long_rows", 1, 2, 4, 150, 3, 3, 3, padding=1),
)

# Taps that often meet the padding: no products with it, where that is faster. Winograd's algorithm does none of them.
PADDED = (
    Case("small_dilated", 5, 48, 9, 9, 49, 5, 6, padding=(4, 5), dilation=2),
    Case("small_dilated_unevenly", 3, 65, 7, 12, 66, 5, 4, padding=((5, 3), (2, 1)), dilation=(2, 1)),
    Case("small_strided", 3, 48, 17, 14, 40, 3, 3, stride=2, padding=8, dilation=8),
    Case("small_seven", 4, 70, 7, 4, 64, 7, 7, padding=(6, 3), dilation=(2, 1)),
    Case("taps_apart", 5, 56, 11, 13, 52, 3, 3, padding=8, dilation=8),
    Case("taps_of_nothing", 4, 49, 6, 7, 50, 3, 3, padding=9, dilation=9),
    Case("no_tap_of_all", 3, 50, 9, 10, 51, 4, 2, padding=((9, 9), (5, 2)), dilation=(6, 7)),
    Case("phases_of_nothing", 2, 39, 8, 3, 35, 4, 5, stride=2, padding=(0, 5), dilation=(2, 3)),
    Case("columns_apart", 3, 70, 12, 11, 40, 3, 4, dilation=(1, 2)),
    Case("columns_apart_deep", 2, 210, 9, 9, 33, 2, 3, dilation=2),
    Case("taps_apart_grouped", 3, 96, 9, 10, 96, 3, 3, padding=7, dilation=7, groups=2),
)

# Nothing, or nothing but padding, in one of the extents.
EMPTY = (
    Case("no_channel_apart", 2, 0, 9, 9, 4, 3, 3, padding=8, dilation=8),
    Case("no_image", 0, 3, 5, 6, 4, 3, 3, padding=1),
    Case("no_image_grouped", 0, 4, 5, 6, 4, 3, 3, stride=2, groups=2),
    Case("no_channel", 2, 0, 5, 6, 4, 3, 3, padding=1),
    Case("no_channel_grouped", 2, 0, 5, 6, 4, 3, 3, stride=2, groups=2),
    Case("no_channel_pointwise", 1, 0, 6, 5, 365, 1, 1, stride=(2, 3)),
    Case("no_row", 2, 3, 0, 6, 4, 3, 3, padding=2),
    Case("no_column", 2, 3, 6, 0, 4, 3, 2, stride=2, padding=((0, 0), (1, 2))),
    Case("no_row_wide_padding", 2, 40, 0, 8, 8, 3, 3, padding=6),
    Case("no_pixel", 1, 2, 0, 0, 3, 2, 2, padding=1),
)

CASES = SHAPES + TAILS + PADDED + EMPTY

# Past the usual cache blocks (tens to hundreds of channels, filters and pixels) in every extent.
BLOCKS = (
    Case("blocks_3x3", 1, 70, 60, 60, 67, 3, 3, padding=1),
    Case("blocks_grouped", 2, 64, 20, 21, 96, 3, 3, padding=1, groups=2),
    Case("blocks_deep", 2, 300, 9, 11, 130, 1, 1),
    Case("blocks_columns", 9, 30, 8, 9, 70, 5, 5, dilation=(1, 2)),
    Case("blocks_columns_strided", 5, 22, 9, 9, 80, 4, 3, stride=(1, 2), groups=2),
    Case("blocks_columns_padded", 5, 12, 9, 8, 60, 4, 3, stride=(2, 1), padding=((0, 1), (1, 0))),
    Case("blocks_columns_wide", 2, 9, 21, 23, 33, 6, 5),
    Case("blocks_few_filters", 2, 137, 25, 40, 11, 1, 1),
    Case("blocks_few_rows", 1, 37, 45, 51, 3, 1, 1),
    Case("blocks_small_maps", 7, 150, 7, 6, 45, 3, 3, padding=1),
    Case("blocks_small_maps_strided", 5, 18, 15, 13, 20, 3, 3, stride=2),
    Case("phases_together", 3, 32, 15, 13, 48, 3, 3, stride=2, padding=1, groups=2),
    Case("phases_together_dilated", 2, 70, 13, 14, 24, 3, 2, stride=(2, 3), padding=(2, 1), dilation=(1, 2)),
    Case("phases_together_many_filters", 2, 150, 6, 7, 300, 2, 3, stride=(1, 2), padding=1),
    Case("pixels_of_no_phase", 2, 64, 13, 14, 32, 2, 3, stride=(3, 4), groups=4),
    Case("phases_too_many", 2, 64, 13, 14, 32, 2, 4, stride=(5, 4), groups=4),
    Case("blocks_deep_3x3", 1, 131, 7, 7, 37, 3, 3, padding=1),
    Case("blocks_depth", 1, 101, 21, 22, 11, 3, 3, padding=1),
    Case("blocks_filters", 1, 7, 9, 9, 270, 3, 3, padding=1),
    Case("blocks_pixels", 3, 3, 61, 67, 8, 3, 3, stride=2, padding=1),
    Case("blocks_few_channels", 3, 3, 37, 41, 32, 3, 3, stride=2, padding=1),
    Case("blocks_few_channels_grouped", 2, 4, 25, 27, 96, 3, 2, padding=(0, 1), dilation=(1, 2), groups=2),
    Case("blocks_few_channels_batch", 20, 3, 9, 7, 30, 3, 3, padding=1),
    Case("blocks_wide", 1, 2, 5, 1100, 7, 3, 3, padding=1),
    Case("blocks_batch", 40, 5, 12, 13, 9, 3, 3, padding=1),
    Case("blocks_large_kernel", 2, 5, 51, 47, 13, 11, 11, stride=4, padding=2),
    Case("blocks_depthwise", 2, 70, 33, 35, 70, 5, 5, stride=2, padding=2, groups=70),
    Case("blocks_multiplier", 3, 8, 41, 43, 24, 3, 3, padding=1, groups=8),
    Case("blocks_dilated", 2, 2, 37, 38, 51, 3, 3, padding=2, dilation=2),
    Case("blocks_one_channel", 5, 1, 28, 30, 6, 5, 5, padding=2),
)
LIGHT_BLOCKS = tuple(case for case in BLOCKS if case.products < 10_000_000)

# 3x3, stride 1: the one kind of problem that every algorithm does, for tests that are not about shapes.
COMMON = Case("common", 3, 4, 9, 11, 6, 3, 3, padding=1, groups=2)
# And for tests of memory, beside it: rows of several vectors, many channels, one channel in each group.
MEMORY = (
    COMMON,
    Case("rows", 2, 3, 6, 45, 8, 3, 3, padding=1),
    Case("channels", 1, 37, 4, 5, 26, 3, 3, padding=1),
    Case("batch", 18, 3, 4, 5, 7, 3, 3),
    Case("five", 2, 17, 9, 12, 20, 5, 5, padding=2),
    Case("dilated", 2, 18, 9, 11, 17, 3, 3, padding=2, dilation=2),
    Case("planes", 2, 9, 7, 20, 9, 3, 3, padding=1, groups=9),
    Case("whole_planes", 1, 16, 5, 9, 16, 3, 3, padding=1, groups=16),
)
