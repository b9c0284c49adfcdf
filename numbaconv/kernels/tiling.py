"""Tile and block sizes: the only file that knows the vector instructions of the host.

The register tile is MR x NR: MR broadcast elements times NR = VECTORS * lanes vector elements, each pair one
multiply-add. It has to fit the register file, MR * VECTORS accumulators + VECTORS loads + 1 broadcast, and to
hold enough independent accumulators to cover the latency of a multiply-add (4 cycles, 2 a cycle: 8).
"""

from __future__ import annotations

import llvmlite.binding as llvm
from numba.core import config


def host_features() -> frozenset[str]:
    """Instruction sets that compiled code may use: the host's, or what Numba's variables override."""
    if config.CPU_FEATURES is not None:
        listed = str(config.CPU_FEATURES).split(",")
        return frozenset(name[1:] for name in listed if name.startswith("+"))
    if config.CPU_NAME not in (None, "", "host"):
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


FEATURES = host_features()
AVX512 = "avx512f" in FEATURES
AVX2 = "avx2" in FEATURES and "fma" in FEATURES
NEON = "neon" in FEATURES
# Whether two multiply-adds of 64 bytes begin in a cycle, as on Zen 5 and Intel's servers: Zen 4 takes each in halves.
# All else then costs more against them, which the planners' costs, in multiply-adds, have to say.
FULL_RATE = AVX512 and (config.CPU_NAME or llvm.get_host_cpu_name()) not in ("znver4", "icelake-client", "tigerlake")
# What all else costs against multiply-adds, of Zen 5's prices: four that were fitted on Zen 4 are 0.4 to 0.9 of them.
# AVX2, with half the lanes at full rate, has Zen 5's: 0.8 to 1.5 times them choose equally well on 380 random layers.
PRICE = 0.65 if AVX512 and not FULL_RATE else 1.0
# Without it a fused multiply-add is a library call; a product and a sum are as right, and faster.
FMA = AVX512 or AVX2 or NEON

# A masked store of AVX2 takes 11 cycles on Zen 4, and other vectors have none.
MASKS_ARE_FREE = AVX512

VECTOR_BYTES = 64 if AVX512 else 32 if AVX2 else 16

# AVX-512, 32 registers: 8 * 3 + 3 + 1 = 28. On Sapphire Rapids (peak 248 GF/s), with the blocks of a 3x3 layer of 512
# channels, 8 x 3 runs at 213 GF/s, 8 x 2 at 200, 14 x 2 at 203; F is more often a multiple of 8.
# AVX2, 16 registers: 6 * 2 + 2 + 1 = 15. NEON, 32 registers: 8 * 2 + 2 + 1 = 19.
MR, VECTORS = (8, 3) if AVX512 else (8, 2) if NEON else (6, 2)
# Where filters are in the vector, they are often a multiple of 64: with AVX-512 6 * 4 + 4 + 1 = 29 registers, no vector
# left over. Products that are 32 to 64 deep, as Winograd's, run at 196 to 215 GF/s.
FILTERS_MR, FILTERS_VECTORS = (6, 4) if AVX512 else (MR, VECTORS)
# Vectors of 4 pixels of a depthwise layer: 4 * 4 sums + 3 taps + 1 pixel of 32 registers, 4 * 2 + 3 + 1 of 16.
CHANNEL_VECTORS = 4 if AVX512 or NEON else 2

# The first level of cache, as it is with these instructions: Zen 3 and 4 have 32 KiB, Sapphire Rapids 48.
L1_BYTES = (48 if AVX512 else 32) * 1024
# Outputs of a filter in a block, whose rows of x lie in one strip.
NC_BYTES = 15 * 64
# The strip of a thread, half of a 1 MiB L2.
PANEL_BYTES = 512 * 1024
# A block of rows of `lanes` channels of a depthwise layer, what goes in and what comes out: an eighth of L2.
PLANES_BYTES = 128 * 1024
# Outputs that no cache has any more when they are read next.
FAR_BYTES = 32 * 1024 * 1024
# Products that a tile sums before it goes back to memory: its way there and back, 32 vectors, is then 1% of the
# multiply-adds.
DEPTH = 512
# Filters whose sums wait in scratch while the panel is in use: MC x NC elements are at most 240 KiB.
MC = 256


def lanes(itemsize: int) -> int:
    """Elements of a vector."""
    return VECTOR_BYTES // itemsize
