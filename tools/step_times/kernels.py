"""What a layer does besides its matrix products: Triton kernels for what torch has not fused, and attention in all its forms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

WITH_TRITON = torch.cuda.is_available()
"""Whether Triton is used; else torch's own, slower kernels."""


@triton.jit
def _add_norm_kernel(x, residual, weight, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    at = row.to(tl.int64) * width + column
    total = tl.load(x + at, inside, 0.0).to(tl.float32) + tl.load(residual + at, inside, 0.0).to(tl.float32)
    tl.store(residual + at, total.to(residual.dtype.element_ty), inside)
    scale = 1.0 / tl.sqrt(tl.sum(total * total, 0) / width + 1e-5)
    normed = total * scale * tl.load(weight + column, inside, 0.0).to(tl.float32)
    tl.store(out + at, normed.to(out.dtype.element_ty), inside)


@triton.jit
def _silu_mul_kernel(x, out, width, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < width
    gate = tl.load(x + row * 2 * width + column, inside, 0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, inside, 0.0).to(tl.float32)
    tl.store(out + row * width + column, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), inside)


@triton.jit
def _rope_store_kernel(qkv, table, positions, slots, q, k, v, HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HALF: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    column = tl.arange(0, HALF)
    source = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * 2 * HALF
    first = tl.load(source + column)
    second = tl.load(source + HALF + column)
    slot = tl.load(slots + token).to(tl.int64)
    if head >= HEADS + KV_HEADS:
        target = v + (slot * KV_HEADS + head - HEADS - KV_HEADS) * 2 * HALF
        tl.store(target + column, first)
        tl.store(target + HALF + column, second)
    else:
        place = tl.load(positions + token).to(tl.int64) * 2 * HALF
        cosine = tl.load(table + place + column)
        sine = tl.load(table + place + HALF + column)
        turned = first.to(tl.float32) * cosine - second.to(tl.float32) * sine
        other = second.to(tl.float32) * cosine + first.to(tl.float32) * sine
        if head < HEADS:  # noqa: SIM108
            target = q + (token * HEADS + head) * 2 * HALF
        else:
            target = k + (slot * KV_HEADS + head - HEADS) * 2 * HALF
        tl.store(target + column, turned.to(first.dtype))
        tl.store(target + HALF + column, other.to(first.dtype))


@triton.jit
def _decode_kernel(
    q, k, v, partial, norms, context, per_split, scale,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    request = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    group = HEADS // KV_HEADS
    row = tl.arange(0, ROWS)
    column = tl.arange(0, DIM)
    head = kv_head * group + row
    query = tl.load(q + (request * HEADS + head[:, None]) * DIM + column[None, :], row[:, None] < group, 0.0)
    best = tl.full((ROWS,), -1e30, tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    result = tl.zeros((ROWS, DIM), tl.float32)
    end = tl.minimum((split + 1) * per_split, context)
    for start in range(split * per_split, end, BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = token < end
        at = ((request * context + token) * KV_HEADS + kv_head) * DIM
        keys = tl.load(k + at[None, :] + column[:, None], inside[None, :], 0.0)
        score = tl.where(inside[None, :], tl.dot(query, keys) * scale, -1e30)
        highest = tl.maximum(best, tl.max(score, 1))
        weight = tl.exp(score - highest[:, None])
        shrink = tl.exp(best - highest)
        values = tl.load(v + at[:, None] + column[None, :], inside[:, None], 0.0)
        total = total * shrink + tl.sum(weight, 1)
        result = result * shrink[:, None] + tl.dot(weight.to(values.dtype), values)
        best = highest
    place = (request * HEADS + head) * SPLITS + split
    tl.store(partial + place[:, None] * DIM + column[None, :], result / total[:, None], row[:, None] < group)
    tl.store(norms + place, best + tl.log(total), row < group)


@triton.jit
def _combine_kernel(partial, norms, out, DIM: tl.constexpr, SPLITS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    split = tl.arange(0, SPLITS)
    column = tl.arange(0, DIM)
    norm = tl.load(norms + row * SPLITS + split)
    weight = tl.exp(norm - tl.max(norm, 0))
    parts = tl.load(partial + (row * SPLITS + split[:, None]) * DIM + column[None, :])
    result = tl.sum(parts * weight[:, None], 0) / tl.sum(weight, 0)
    tl.store(out + row * DIM + column, result.to(out.dtype.element_ty))


def add_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """RMS norm of `x + residual`, which becomes the new residual."""
    if not WITH_TRITON:
        residual += x
        return F.rms_norm(residual, residual.shape[-1:], weight, 1e-5)
    out = torch.empty_like(x)
    _add_norm_kernel[(x.shape[0],)](x, residual, weight, out, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]), num_warps=8)
    return out


def silu_mul(x: torch.Tensor) -> torch.Tensor:
    rows, width = x.shape[0], x.shape[1] // 2
    if not WITH_TRITON:
        return F.silu(x[:, :width]) * x[:, width:]
    out = torch.empty(rows, width, dtype=x.dtype, device=x.device)
    _silu_mul_kernel[(rows, triton.cdiv(width, 2048))](x, out, width, BLOCK=2048, num_warps=4)
    return out


def rope_store(
    qkv: torch.Tensor, positions: torch.Tensor, slots: torch.Tensor, table: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """Rotates queries and keys, and puts keys and values into the pool.

    Args:
        qkv: Heads of queries, keys and values, (tokens, all heads * dim).
        positions: Of each token in its request.
        slots: Row of the pool of each token.
        table: Cosines and sines by position, (positions, dim).
        k: The pool of keys, (rows, kv_heads, dim).
        v: The pool of values.

    Returns:
        The queries, (tokens, heads, dim).
    """
    (tokens, width), (_, kv_heads, dim) = qkv.shape, k.shape
    count, half = width // dim - 2 * kv_heads, dim // 2
    q = torch.empty(tokens, count, dim, dtype=qkv.dtype, device=qkv.device)
    if WITH_TRITON:
        grid = (tokens, count + 2 * kv_heads)
        _rope_store_kernel[grid](qkv, table, positions, slots, q, k, v, HEADS=count, KV_HEADS=kv_heads, HALF=half, num_warps=1)
        return q
    heads = qkv.view(tokens, -1, dim)
    turning = heads[:, : count + kv_heads].float()
    cosine, sine = table[positions.long()].unsqueeze(1).split(half, -1)
    first, second = turning.split(half, -1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], -1).to(qkv.dtype)
    q.copy_(turned[:, :count])
    k[slots.long()] = turned[:, count:]
    v[slots.long()] = heads[:, count + kv_heads :]
    return q


def decode_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, context: int) -> torch.Tensor:
    """One new token of each request against its cache: `q` (batch, heads, dim); of the pools the first batch * context rows count."""
    (batch, heads, dim), kv_heads = q.shape, k.shape[1]
    if not WITH_TRITON:
        plain = flash_attention if q.is_cuda else reference_attention
        caches = (pool[: batch * context].view(batch, context, kv_heads, dim) for pool in (k, v))
        return plain(q.unsqueeze(1), *caches).squeeze(1)
    block = 64
    wanted = max(1, 528 // (batch * kv_heads))  # four programs for each of 132 processors
    splits = min(32, triton.next_power_of_2(wanted), max(1, triton.next_power_of_2(context // block)))
    per_split = triton.cdiv(triton.cdiv(context, splits), block) * block
    while splits > 1 and per_split * (splits - 1) >= context:  # none may be empty
        splits //= 2
        per_split = triton.cdiv(triton.cdiv(context, splits), block) * block
    rows = max(16, triton.next_power_of_2(heads // kv_heads))
    partial = torch.empty(batch, heads, splits, dim, dtype=torch.float32, device=q.device)
    norms = torch.empty(batch, heads, splits, dtype=torch.float32, device=q.device)
    out = torch.empty_like(q)
    _decode_kernel[(batch, kv_heads, splits)](
        q, k, v, partial, norms, context, per_split, dim**-0.5,
        HEADS=heads, KV_HEADS=kv_heads, DIM=dim, SPLITS=splits, ROWS=rows, BLOCK=block, num_warps=4, num_stages=3,
    )  # fmt: skip
    _combine_kernel[(batch * heads,)](partial, norms, out, DIM=dim, SPLITS=splits, num_warps=1)
    return out


def reference_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention in float32, the last query seeing the last key: q (batch, new, heads, dim), k and v (batch, all, kv_heads, dim)."""
    new, every, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    q32, k32, v32 = (x.float().transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    score = q32 @ k32.transpose(-1, -2) * q.shape[-1] ** -0.5
    hidden = torch.ones(new, every, dtype=torch.bool, device=q.device).triu(every - new + 1)
    return (score.masked_fill(hidden, float("-inf")).softmax(-1) @ v32).transpose(1, 2).to(q.dtype)


def flash_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same by torch's FlashAttention, which takes fewer heads of keys than of queries and aligns the mask at the end."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True, False)[0].transpose(1, 2)


def cudnn_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same by cuDNN, faster on Hopper; without a prefix only."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel([SDPBackend.CUDNN_ATTENTION]):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def expanded_attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same with keys and values copied to every head, for where nothing else works."""
    from torch.nn.attention.bias import causal_lower_right

    group = q.shape[2] // k.shape[2]
    q, k, v = (x.transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2])).transpose(1, 2)
