"""What the kernels of recurrences with a matrix state compute within a chunk, as functions compiled by Triton.

A matrix over a chunk has C rows (tokens) and is float32 (``ACC``) in registers. Its products run on the matrix units
with operands rounded to ``DOT``, the dtype of the inputs, and accumulate in float32. ``BF16`` is the dtype in which
bfloat16 multiplies: itself on a GPU, float32 in the interpreter, whose arithmetic in bfloat16 is wrong.
"""

from typing import no_type_check

import triton
import triton.language as tl

from .._core.triton.functions import load_vector, store_tile


@triton.jit
@no_type_check
def dot(a, b, DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr):
    """``a b`` with both operands rounded to DOT."""
    out: tl.constexpr = tl.float64 if tl.float64 == DOT else tl.float32
    # Rounded to DOT first and then widened: in the interpreter the product is that of the rounded operands, too.
    multiply: tl.constexpr = BF16 if tl.bfloat16 == DOT else DOT
    return tl.dot(a.to(DOT).to(multiply), b.to(DOT).to(multiply), input_precision=PRECISION, out_dtype=out)


@triton.jit
@no_type_check
def rest(x):
    """What rounding x to bfloat16 drops: both together have 16 bits when this is rounded to bfloat16, too."""
    x = x.to(tl.float32)
    return x - x.to(tl.bfloat16).to(tl.float32)


@triton.jit
@no_type_check
def precise_dot(
    a, a_rest, b, SPLIT_B: tl.constexpr, DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """``(a + a_rest) b`` to 16 bits at least, for what a state is made of.

    A bfloat16 has 8 bits, and an error of 2^-9 in what a token adds to the state stays in it. An operand in float32 is
    therefore multiplied as the sum of two bfloat16, one pass more on the matrix units; the product of both rests, about
    2^-18, is left out. ``a_rest`` is None where a is exact in DOT; without SPLIT_B, b is. A float16 is split too: it
    has 11 bits, but its range ends at 65504, which a state may exceed. Wider dtypes are not split.
    """
    if tl.bfloat16 == DOT or tl.float16 == DOT:
        # a b = (a_hi + a_lo)(b_hi + b_lo), without a_lo b_lo; each product has bfloat16 operands, float32 sums.
        SPLIT: tl.constexpr = tl.float16 == DOT
        out = dot(a, b, tl.bfloat16, BF16, PRECISION)
        if SPLIT_B or SPLIT:
            out += dot(a, rest(b), tl.bfloat16, BF16, PRECISION)
        if a_rest is not None:
            out += dot(a_rest, b, tl.bfloat16, BF16, PRECISION)
        elif SPLIT:
            out += dot(rest(a), b, tl.bfloat16, BF16, PRECISION)
    else:
        out = dot(a, b, DOT, BF16, PRECISION)
    return out


@triton.jit
@no_type_check
def store_planes(
    ptr, plane, step, value, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DOT: tl.constexpr
):  # fmt: skip
    """Store float32 values for :func:`precise_dot`: 16-bit inputs as two planes of bfloat16, the rests in the second.

    Planes go from memory to the matrix units as they are, where a float32 tile would have to be split in registers.
    """
    store_tile(ptr, step, value, rows, columns, ROWS, COLUMNS)
    if tl.bfloat16 == DOT or tl.float16 == DOT:
        store_tile(ptr + plane, step, rest(value), rows, columns, ROWS, COLUMNS)


@triton.jit
@no_type_check
def scalar_decays(log_decay, step, rows, C: tl.constexpr, ACC: tl.constexpr):
    """Scalar decays of a chunk, (C,): from its start to each row, from each row to its end; and the total.

    Sums of logarithms over the very range in question: a difference of two running sums would lose digits, and turn a
    reset (``log a = -inf``) into ``inf - inf``.
    """
    # Row i of `later` is the logarithm of row i + 1, so its suffix sum covers exactly the rows after i.
    g = load_vector(log_decay, step, rows, C, ACC)
    later = load_vector(log_decay + step, step, rows - 1, C, ACC)
    return tl.exp(tl.cumsum(g, 0)), tl.exp(tl.cumsum(later, 0, reverse=True)), tl.exp(tl.sum(g, 0))


@triton.jit
@no_type_check
def decay_matrix(log_decay, step, rows, C: tl.constexpr, ACC: tl.constexpr):
    """Scalar decay from row j to row i, (C, C), zero above the diagonal; without decay the triangle of ones.

    Column j sums the logarithms after row j, one cumulative sum down the columns for all pairs.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    if log_decay is None:
        factors = tl.where(i >= j, 1.0, 0.0).to(ACC)
    else:
        # (C, C): entry (i, j) is the logarithm of row i where i > j; a cumulative sum down column j adds rows j+1..i.
        g = load_vector(log_decay, step, rows, C, ACC)
        factors = tl.where(i >= j, tl.exp(tl.cumsum(tl.where(i > j, g[:, None], 0.0), 0)), 0.0)
    return factors


@triton.jit
@no_type_check
def join_blocks(from_start, to_end, level):
    """Vector decays from the start and to the end of blocks of 2^level rows: the same of blocks twice as long.

    ``i ^ 2^level`` is a row of the neighbouring block, whose total decay (the product of both, the same in each of its
    rows) the second block of a pair takes into its start, and the first into its end.
    """
    i = tl.arange(0, from_start.shape[0])[:, None]
    other = tl.gather(from_start * to_end, tl.broadcast_to(i ^ (1 << level), from_start.shape), 0)
    # Bit `level` of the row tells the second block of a pair from the first.
    second = ((i >> level) & 1) == 1
    return tl.where(second, from_start * other, from_start), tl.where(second, to_end, to_end * other)


@triton.jit
@no_type_check
def pair_mask(level, C: tl.constexpr):
    """(C, C): rows of a second block and columns of the first block before it, blocks having 2^level rows.

    Over all levels these masks cover every pair ``j < i`` exactly once.
    """
    # Numbers of the blocks of rows and columns: 2m + 1 and 2m belong together.
    i, j = (tl.arange(0, C) >> level)[:, None], (tl.arange(0, C) >> level)[None, :]
    return (i == (j | 1)) & ((j & 1) == 0)


@triton.jit
@no_type_check
def ut_transform(
    kk, beta, LEVELS: tl.constexpr, C: tl.constexpr, DOT: tl.constexpr, BF16: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """``(I + kk diag(beta))^-1 kk`` for a strictly lower triangular kk, (C, C).

    The inverse of a block triangular matrix, blocks of 2^level rows joined pairwise: ``-D^-1 B A^-1`` below the
    inverses of A and D. All pairs of a level are one product of (C, C) matrices, so C rows take log2(C) steps on the
    matrix units instead of C steps of substitution.
    """
    i, j = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    scaled = kk * beta[None, :]
    # Level 0 by hand: the inverse of [[1, 0], [b, 1]] is [[1, 0], [-b, 1]].
    inverse = tl.where(i == j, 1.0, 0.0).to(kk.dtype) - tl.where(pair_mask(0, C), scaled, 0.0)
    for level in tl.range(1, LEVELS):
        below = tl.where(pair_mask(level, C), scaled, 0.0)
        # With the inverses X of all blocks in place, -X B X has -D^-1 B A^-1 in every pair's lower left block,
        # and is zero elsewhere: B is.
        product = precise_dot(inverse, rest(inverse), below, True, DOT, BF16, PRECISION)
        inverse -= precise_dot(product, rest(product), inverse, True, DOT, BF16, PRECISION)
    return precise_dot(inverse, rest(inverse), kk, True, DOT, BF16, PRECISION)
