"""Settings of the engines."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveFloat

from tuner.section import Args, Section, Text, as_tuple


class LlamaCppSettings(Section):
    """The embedded CPU engine.

    Attributes:
        model: `nano` or `micro` (random weights, made on first use), or the path of a GGUF file.
        executable: First words of the command line; by default those of the launcher that comes with tuner.
        image: Container image that holds tuner with its extra `llamacpp`, where the engine runs in a container.
        tokenizer: Folder with a Hugging Face tokenizer; by default it is read from the GGUF.
        args: Further parameters of every launch, the default's too.
        ready_timeout_s: Seconds from start to readiness.
    """

    name: Literal["llamacpp"]
    model: Text
    executable: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)] | None = None
    image: Text | None = None
    tokenizer: Text | None = None
    args: Args = Field(default_factory=dict)
    ready_timeout_s: PositiveFloat = 60.0


class GpuEngineSettings(Section):
    """SGLang or vLLM.

    Attributes:
        model: Hugging Face hub id or local directory.
        executable: First words of the command line, on this host or in the container.
        image: Container image, where it runs in a container.
        version: Version of the engine, which decides how flags are spelled; by default that of the image's tag, if it names one.
        tokenizer: Hub id or folder of the tokenizer; by default the model's own.
        args: Further flags of every launch, the default's too: `mem_fraction_static: 0.8` becomes `--mem-fraction-static 0.8`.
        ready_timeout_s: Seconds from start to readiness.
    """

    name: Literal["sglang", "vllm"]
    model: Text
    executable: Annotated[tuple[Text, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    image: Text | None = None
    version: Text | None = None
    tokenizer: Text | None = None
    args: Args = Field(default_factory=dict)
    ready_timeout_s: PositiveFloat = 1200.0
