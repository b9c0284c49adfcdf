"""The kernels of the four passes.

The plain computation, for n, f, oh, ow, with c in the group of f and x zero outside the image::

    y[n, f, oh, ow] = bias[f] + sum over c, kh, kw of
        x[n, c, oh * stride - top + kh * dilation, ow * stride - left + kw * dilation] * weight[f, c, kh, kw]

Each product x * weight in that sum belongs to one y, so the chain rule gives every gradient from it:
dy * weight goes to the pixel of dx, dy * x to the tap of dw, and dy to db.

:mod:`.loops` computes exactly this, one loop per index. The direct engine computes the same sums as products of
matrices, in one nest::

    piece of work        a block of filters and a block of pixels, claimed by a worker           forward, weight_grad
      strip or panel     what the block reads, brought together: fits L2                         packing
        product          a panel of MR filters by all pixels of the block                        gemm
          micro-kernel   MR filters by NR pixels in registers, one multiply-add per product      gemm, tiles, tiling

:mod:`.forward` has this nest for y, with a weight that has to be packed in :mod:`.weight_panels`; :mod:`.input_grad`
shows that dx is the same nest on dy, a :mod:`.problem` for each phase, and :mod:`.input_grad_columns` has dx of few
channels and of small outputs; and :mod:`.weight_grad` has it with pixels as the index that is summed, and for few
channels :mod:`.weight_grad_pixels` with pixels in the vector, and :mod:`.weight_grad_filters` with filters.
:mod:`.channels_last` turns the product round for NHWC, and where that pays, with :mod:`.product` in the place of
:mod:`.gemm` and :mod:`.weight_vectors` in that of :mod:`.weight_panels`, and computes all phases of dx together.
:mod:`.depthwise`, :mod:`.depthwise_input_grad`, :mod:`.depthwise_weight_grad` and :mod:`.bias_grad` have nothing to
tile.
:mod:`.winograd` computes kernels of 2 x 2 taps or more, at any stride or dilated, with fewer products.

:mod:`.simd` and :mod:`.tiles` are the instructions, each with its scalar meaning, and :mod:`.emit` is how LLVM spells
them; :mod:`.rows` copies stretches of memory and :mod:`.turning` transposes blocks. :mod:`.launch` starts kernels,
:mod:`.work` deals their pieces out to workers, :mod:`.turn` says who may start threads, :mod:`.jit` compiles them and
:mod:`.code_cache` keeps them.

Every kernel takes activations as four extents in the order N, C, H, W with any strides (a layout is a
transposed view), a weight (F, C / groups, KH, KW) with any strides (a turned kernel is a view too), and
trusts what it gets: geometry and functional have checked everything.
"""
