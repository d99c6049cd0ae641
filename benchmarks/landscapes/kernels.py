"""Step times from measured kernels: the tables of aiconfigurator-core 0.12.0 (the extra `prior`)."""

from __future__ import annotations

import logging
import os
import warnings
from typing import Any


class Kernels:
    """A source of step times. Attention, matrix products and all-reduces are measured on the GPU; what lies between them is not counted.

    Args:
        model: A model that the package knows, or a folder with its config.json.
        system: Its name of the GPU, for example `h100_sxm`.
        tp: Tensor parallel size.
        backend: Whose kernels: `sglang`, `vllm` or `trtllm`.
        options: Further arguments of `EngineHandle.compile`, for example `gemm_quant_mode`.

    Raises:
        ImportError: the extra is not installed.
    """

    def __init__(self, model: str, system: str, tp: int, backend: str = "sglang", **options: Any) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        # it warns of every table that it takes from a neighbouring version
        logging.getLogger("aiconfigurator_core").setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from aiconfigurator_core.sdk import EngineHandle  # type: ignore[import-not-found, unused-ignore]

            self._engine = EngineHandle.compile(model, system, backend, tp_size=tp, **options)

    def prefill_s(self, tokens: int, context: float) -> float:
        """As `Source.prefill_s`: one prompt behind a prefix, or several short prompts."""
        prefix = int(context - tokens / 2)
        if prefix >= 0:
            return float(self._engine.predict_prefill_latency(1, prefix + tokens, prefix)) / 1000
        prompts = max(1, round(tokens / (2 * context)))
        return float(self._engine.predict_prefill_latency(prompts, -(-tokens // prompts), 0)) / 1000

    def decode_s(self, batch: int, context: float) -> float:
        """As `Source.decode_s`."""
        return float(self._engine.decode_step_latency(batch, max(1, int(context)), 2)) / 1000
