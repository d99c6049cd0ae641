"""llama.cpp on the CPU, through the launcher in `llamacpp_server`: the engine that runs everywhere, and the one that tests use."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import ClassVar

from tuner.engines.base import existing_path
from tuner.engines.common_failures import SERVER_TEXTS
from tuner.engines.failure_texts import FailureText
from tuner.engines.gguf_tokenizer import tokenizer_folder
from tuner.engines.llamacpp_flags import BY_PARAMETER, FLAGS, OWN_FLAGS, SPELLINGS, check
from tuner.engines.llamacpp_server import REPORT
from tuner.engines.metrics import server_metrics
from tuner.engines.openai_server import OpenAIServer, ask, inside, page, post, scalars, served_name
from tuner.engines.random_llama import MODEL_FILE, TOKENIZER_FOLDER, RandomLlama
from tuner.engines.runtime_flags import Grammar, read_flags, runtime_errors
from tuner.errors import ConfigError, Infeasible, NotReadyError, Systemic, Transient
from tuner.explain import nearest
from tuner.launch import Configuration, Endpoint, LaunchSpec, Mount, Value
from tuner.server_facts import ServerMetrics

PACKAGES = ("xllamacpp", "gguf", "tokenizers", "numpy")
SEEN = "seen in xllamacpp 2026.10.11549"

METRICS = {
    "running": "llamacpp:requests_processing",
    "queued": "llamacpp:requests_deferred",
    "prompt_tokens": "llamacpp:prompt_tokens",
    "cached_tokens": "llamacpp:prompt_tokens_cached",
}


@dataclass(frozen=True, slots=True)
class Files:
    """What a launch reads."""

    model: Path
    tokenizer: str


class LlamaCpp(OpenAIServer):
    """The llama.cpp server of the xllamacpp package.

    Args:
        model: `nano` or `micro`, a random-weight model made on first use, with the type of its weights if wanted (`micro-q8_0`); or the
            path of a GGUF file.
        args: Parameters that stay the same in all trials, named as in a configuration.
        image: Container image that holds this package, for backends that need one.
        executable: The words that start the launcher; None takes the Python of the image, or else the one that runs here.
        ready_timeout_s: Seconds from start to readiness after which a launch counts as failed.
        tokenizer: Directory or hub id of the tokenizer; None takes the one inside the GGUF.
        model_path: Where servers find the GGUF, in words that only their environment can resolve (`$(MODEL_PATH)`). Then `model` only says
            whose tokenizer is needed here.

    Raises:
        ConfigError: `args` holds an unknown name or a wrong value.
    """

    name: ClassVar[str] = "llamacpp"
    failure_texts = (
        FailureText("port_in_use", "couldn't bind HTTP server socket", Transient, "another process took the port", SEEN),
        FailureText("bad_args", "error: argument ", Infeasible, "", "argparse"),
        FailureText(
            "bad_args", "error: unrecognized arguments", Systemic, "the launcher and the engine are of different versions", "argparse"
        ),
        FailureText("missing_model", "error: model ", Systemic, "check engine.model", "tuner.engines.llamacpp_server"),
        FailureText("missing_package", "error: xllamacpp is missing", Systemic, "", "tuner.engines.llamacpp_server"),
        FailureText("oom_host", "insufficient memory", Infeasible, "lower n_ctx, or choose a smaller cache_type_k and cache_type_v", SEEN),
        FailureText("oom_host", "failed to allocate", Infeasible, "lower n_ctx, or choose a smaller cache_type_k and cache_type_v", SEEN),
        FailureText("oom_host", "bad_alloc", Infeasible, "lower n_ctx, n_batch or n_ubatch", "C++ standard library"),
        FailureText("bad_config", "quantized V cache requires flash_attn", Infeasible, "", SEEN),
        FailureText("bad_config", "llama_init_from_model: ", Infeasible, "", SEEN),
        FailureText("bad_model", "error loading model", Systemic, "the GGUF is damaged or of an unknown kind: check engine.model", SEEN),
        FailureText("bad_model", "failed to load model", Systemic, "the GGUF is damaged or of an unknown kind: check engine.model", SEEN),
        FailureText("bad_config", "GGML_ASSERT", Infeasible, "llama.cpp cannot run this combination", SEEN),
        *SERVER_TEXTS,
    )

    def __init__(
        self,
        model: str = "micro",
        args: Mapping[str, Value] | None = None,
        image: str | None = None,
        executable: Sequence[str] | None = None,
        ready_timeout_s: float = 60.0,
        tokenizer: str | None = None,
        model_path: str | None = None,
    ) -> None:
        self._model = model
        self._args = dict(args or {})
        self._image = image
        self._model_path = model_path
        python = sys.executable if image is None and model_path is None else "python3"
        self._executable = tuple(executable or (python, "-m", "tuner.engines.llamacpp_server"))
        self._ready_timeout_s = ready_timeout_s
        self._tokenizer = tokenizer
        self._files: Files | None = None
        for name, value in self._args.items():
            if name not in BY_PARAMETER:
                known = ", ".join(BY_PARAMETER)
                raise ConfigError(f"engine.args.{name}: llamacpp has no such parameter{nearest(name, BY_PARAMETER)}; known: {known}")
            try:
                BY_PARAMETER[name].words(value)
            except Infeasible as error:
                raise ConfigError(f"engine.args.{error.reason}") from error

    @property
    def parameters(self) -> frozenset[str]:
        return frozenset(BY_PARAMETER)

    @property
    def defaults(self) -> Mapping[str, Value]:
        return {flag.parameter: flag.default for flag in FLAGS if flag.default is not None} | self._args

    def prepare(self) -> None:
        for package in PACKAGES:
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise NotReadyError(f"engine llamacpp needs {package} ({error}): pip install 'tuner[llamacpp]'") from error
        self._files = self._find_files()

    @property
    def tokenizer(self) -> str:
        return self._prepared().tokenizer

    def launch(self, configuration: Configuration, token: str) -> LaunchSpec:
        full = {**self._args, **configuration}
        words = _words(full)
        check(full)
        served = served_name(self._model if RandomLlama.parse(self._model) else Path(self._model).stem, token)
        local = self._prepared().model if self._model_path is None else None
        address = ("--host", "{host}", "--port", "{port}", "--metrics")
        return LaunchSpec(
            argv=(*self._executable, "--model", str(local or self._model_path), "--alias", served, *address, *words),
            served_model=served,
            image=self._image,
            mounts=() if local is None else (Mount(local, str(local)),),
            ready_timeout_s=self._ready_timeout_s,
        )

    def read_flags(self, words: Sequence[str]) -> dict[str, Value]:
        ignored = frozenset({spelling.name for spelling in OWN_FLAGS.values()} | set(self._args))
        with runtime_errors():
            found = read_flags(words, Grammar(SPELLINGS, ignored, abbreviated=False))
            _words(found)
        return found

    def effective(self, endpoint: Endpoint) -> Mapping[str, Value]:
        """Beside the parameters `n_ctx_slot`: the tokens that one request may hold, prompt and output together."""
        props = ask(endpoint, "/props")
        answered = {"n_parallel": inside(props, "total_slots"), "n_ctx_slot": inside(props, "default_generation_settings", "n_ctx")}
        return scalars(inside(props, "ui_settings", REPORT), BY_PARAMETER) | scalars(answered, answered)

    def version(self, endpoint: Endpoint) -> str:
        # The server reports the build as `b0-unknown`.
        try:
            return f"xllamacpp {version('xllamacpp')}"
        except PackageNotFoundError:
            return "unknown"

    def flush_cache(self, endpoint: Endpoint) -> bool:
        slots = ask(endpoint, "/slots")
        if not isinstance(slots, list) or not slots:
            return False
        erased = [post(endpoint, f"/slots/{number}?action=erase") for number in range(len(slots))]
        return all(erased)

    def metrics(self, endpoint: Endpoint) -> ServerMetrics | None:
        seen = server_metrics(page(endpoint, "/metrics") or "", METRICS)
        if seen is None or seen.prompt_tokens is None:
            return seen
        # its first counter leaves out what the cache held
        return replace(seen, prompt_tokens=seen.prompt_tokens + (seen.cached_tokens or 0))

    def describe(self) -> Mapping[str, str]:
        if self._model_path is not None:
            return {"model": self._model, "model_path": self._model_path}
        model = self._prepared().model
        return {"model": self._model, "model_file": str(model), "model_bytes": str(model.stat().st_size)}

    def _prepared(self) -> Files:
        if self._files is None:
            self.prepare()
        assert self._files is not None
        return self._files

    def _find_files(self) -> Files:
        try:
            if random_llama := RandomLlama.parse(self._model):
                folder = random_llama.folder()
                return Files(folder / MODEL_FILE, self._tokenizer or str(folder / TOKENIZER_FOLDER))
            path = existing_path(self._model)
            if path is None or not path.is_file():
                raise Systemic(f"engine.model={self._model}: no such file; give the path of a GGUF file, or nano or micro")
            return Files(path, self._tokenizer or str(tokenizer_folder(path)))
        except OSError as error:
            raise NotReadyError(f"engine llamacpp cannot fill its model cache, which is below XDG_CACHE_HOME: {error}") from error


def _words(full: Mapping[str, Value]) -> list[str]:
    """The words that set the parameters.

    Raises:
        Infeasible: there is no such parameter, or the server would refuse its value.
    """
    for name in full:
        if name not in BY_PARAMETER:
            raise Infeasible(f"{name}: llamacpp has no such parameter")
    return [word for name, value in full.items() for word in BY_PARAMETER[name].words(value)]
