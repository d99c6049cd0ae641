"""The models that are timed, with random weights, and the steps that they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from tools.step_times import say
from tools.step_times.kernels import (
    add_norm,
    cudnn_attention,
    decode_attention,
    expanded_attention,
    flash_attention,
    reference_attention,
    rope_store,
    silu_mul,
)


@dataclass(frozen=True)
class Shape:
    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int

    @property
    def kv_token_bytes(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


LLAMA_8B = Shape("llama8b", 4096, 32, 32, 8, 128, 14336, 128256)
LLAMA_1B = Shape("llama1b", 2048, 16, 32, 8, 64, 8192, 128256)
TINY = Shape("tiny", 64, 2, 8, 2, 16, 96, 128)


class PrefillAttention:
    """The first implementation that is right on this machine, with and without a prefix."""

    def __init__(self, shape: Shape, device: str) -> None:
        self.plain = self._choose(shape, device, 0, (cudnn_attention, flash_attention, expanded_attention, reference_attention))
        self.after_prefix = self._choose(shape, device, 64, (flash_attention, expanded_attention, reference_attention))

    def __call__(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return (self.plain if q.shape[1] == k.shape[1] else self.after_prefix)(q, k, v)

    @staticmethod
    def _choose(shape: Shape, device: str, prefix: int, candidates: tuple[Callable[..., torch.Tensor], ...]) -> Callable[..., torch.Tensor]:
        new = 96
        q = torch.randn(1, new, shape.heads, shape.head_dim, device=device).bfloat16()
        k, v = torch.randn(2, 1, prefix + new, shape.kv_heads, shape.head_dim, device=device).bfloat16()
        right = reference_attention(q, k, v).float()
        for candidate in candidates:
            try:
                error = (candidate(q, k, v).float() - right).abs().max().item()
            except Exception as failure:
                say(f"  {candidate.__name__}, prefix {prefix}: {str(failure).splitlines()[0][:150]}")
                continue
            say(f"  {candidate.__name__}, prefix {prefix}: largest error {error:.4f}")
            if error < 0.05:
                return candidate
        raise RuntimeError("no attention is right")


@dataclass
class Batch:
    """The tokens of one step: first those of one request's prefill chunk, then one of each decoding request.

    The pool's first rows are the decoding requests' caches, `context` rows each; those of the chunk's request follow.
    """

    decoding: int
    context: int
    chunk: int
    prefix: int
    device: str
    tokens: torch.Tensor = field(init=False)
    positions: torch.Tensor = field(init=False)
    slots: torch.Tensor = field(init=False)
    sampled: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        base = self.decoding * self.context
        chunk = torch.arange(self.prefix, self.prefix + self.chunk)
        last = torch.full((self.decoding,), self.context - 1)
        self.positions = torch.cat([chunk, last]).int().to(self.device)
        self.slots = torch.cat([base + chunk, torch.arange(self.decoding) * self.context + last]).int().to(self.device)
        self.tokens = torch.randint(0, 100, (self.chunk + self.decoding,)).to(self.device)
        ends = [self.chunk - 1] if self.chunk else []
        self.sampled = torch.tensor([*ends, *range(self.chunk, self.chunk + self.decoding)]).to(self.device)

    @property
    def pool_tokens(self) -> int:
        return self.decoding * self.context + (self.prefix + self.chunk if self.chunk else 0)


class Model:
    def __init__(self, shape: Shape, device: str, pool_tokens: int) -> None:
        self.shape, self.device, self.pool_tokens = shape, device, pool_tokens
        query, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

        def weight(rows: int, columns: int) -> torch.Tensor:
            return torch.empty(rows, columns, dtype=torch.bfloat16, device=device).normal_(0, columns**-0.5)

        self.embedding = weight(shape.vocabulary, shape.hidden)
        self.head = weight(shape.vocabulary, shape.hidden)
        self.ones = torch.ones(shape.hidden, dtype=torch.bfloat16, device=device)
        self.layers = [
            (
                weight(query + 2 * kv, shape.hidden),
                weight(shape.hidden, query),
                weight(2 * shape.width, shape.hidden),
                weight(shape.hidden, shape.width),
            )
            for _ in range(shape.layers)
        ]
        pool = (shape.layers, pool_tokens, shape.kv_heads, shape.head_dim)
        self.k, self.v = (torch.empty(pool, dtype=torch.bfloat16, device=device) for _ in range(2))
        for layer in range(shape.layers):
            self.k[layer].normal_()
            self.v[layer].normal_()
        angle = torch.outer(torch.arange(32768).float(), 500000.0 ** -(torch.arange(0, shape.head_dim, 2) / shape.head_dim))
        self.table = torch.cat([angle.cos(), angle.sin()], -1).to(device)
        self.prefill_attention = PrefillAttention(shape, device)

    def step(self, batch: Batch) -> torch.Tensor:
        shape = self.shape
        residual = self.embedding[batch.tokens]
        x = torch.zeros_like(residual)
        for (w_qkv, w_out, w_up, w_down), k, v in zip(self.layers, self.k, self.v, strict=True):
            q = rope_store(F.linear(add_norm(x, residual, self.ones), w_qkv), batch.positions, batch.slots, self.table, k, v)
            x = F.linear(self._attend(q, k, v, batch).view(-1, shape.heads * shape.head_dim), w_out)
            x = F.linear(silu_mul(F.linear(add_norm(x, residual, self.ones), w_up)), w_down)
        return F.linear(add_norm(x, residual, self.ones)[batch.sampled], self.head).argmax(-1)

    def _attend(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, batch: Batch) -> torch.Tensor:
        parts = []
        if batch.chunk:
            start = batch.decoding * batch.context
            keys, values = (pool[start : start + batch.prefix + batch.chunk].unsqueeze(0) for pool in (k, v))
            parts.append(self.prefill_attention(q[: batch.chunk].unsqueeze(0), keys, values).reshape(batch.chunk, -1))
        if batch.decoding:
            parts.append(decode_attention(q[batch.chunk :], k, v, batch.context).reshape(batch.decoding, -1))
        return parts[0] if len(parts) == 1 else torch.cat(parts)
