"""The llama.cpp server's parameters: one table for the engine, which writes flags, and for the launcher, which reads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tuner.engines.runtime_flags import Spelling
from tuner.errors import Infeasible
from tuner.launch import Value

# https://github.com/ggml-org/llama.cpp/blob/master/common/arg.cpp, `kv_cache_types`
CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
UNQUANTIZED_CACHE_TYPES = ("f32", "f16", "bf16")

MAX_SLOTS = 256
"""`LLAMA_MAX_SEQ`: more fail with `n_seq_max must be <= 256` (seen in xllamacpp 2026.10.11549)."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One parameter of the server.

    Attributes:
        parameter: Its name in a configuration; that of llama.cpp's `common_params`.
        flags: llama-server's flags for it, the long one last.
        default: The value where none is given; the type of the parameter follows from it. None: an integer that follows another parameter.
        help: What it does, for `--help`.
        choices: The allowed words, for a parameter that is a word.
        minimum: The smallest allowed integer.
        maximum: The largest allowed integer; llama.cpp keeps 32 bits.
    """

    parameter: str
    flags: tuple[str, ...]
    default: Value | None
    help: str
    choices: tuple[str, ...] = ()
    minimum: int = 1
    maximum: int = 2**31 - 1

    @property
    def switch(self) -> bool:
        return isinstance(self.default, bool)

    @property
    def spellings(self) -> dict[str, Spelling]:
        """What each of its words means."""
        if self.switch:
            off = {"--no-" + self.flags[-1].removeprefix("--"): Spelling(self.parameter, "bool", alone=False)}
            return dict.fromkeys(self.flags, Spelling(self.parameter, "bool")) | off
        return dict.fromkeys(self.flags, Spelling(self.parameter, "str" if self.choices else "int"))

    def words(self, value: Value) -> list[str]:
        """The command line words that set the parameter to `value`.

        Raises:
            Infeasible: the server would refuse the value.
        """
        long = self.flags[-1]
        if self.switch:
            if not isinstance(value, bool):
                raise Infeasible(f"{self.parameter}={value!r}: must be true or false")
            return [long if value else "--no-" + long.removeprefix("--")]
        if self.choices:
            # YAML reads a bare `on` or `off` as a boolean, as far as the reader knows YAML 1.1.
            word = {True: "on", False: "off"}[value] if isinstance(value, bool) else value
            if word not in self.choices:
                raise Infeasible(f"{self.parameter}={value!r}: must be one of {', '.join(self.choices)}")
            return [long, str(word)]
        if isinstance(value, bool) or not isinstance(value, int) or not self.minimum <= value <= self.maximum:
            raise Infeasible(f"{self.parameter}={value!r}: must be an integer from {self.minimum} to {self.maximum}")
        return [long, str(value)]


FLAGS = (
    Flag("n_parallel", ("-np", "--parallel"), 4, "slots: sequences served at the same time", maximum=MAX_SLOTS),
    # llama-server's default is the model's own context, which makes the memory depend on the model (4 GiB for Llama 3.2 1B).
    Flag("n_ctx", ("-c", "--ctx-size"), 8192, "tokens of context in all; divided by the slots unless --kv-unified"),
    Flag("n_batch", ("-b", "--batch-size"), 2048, "tokens handled in one step of the scheduler (logical batch)"),
    Flag("n_ubatch", ("-ub", "--ubatch-size"), 512, "tokens computed at once (physical batch)"),
    # llama-server takes all physical cores. Here the load generator needs one too: on a host with 2 busy cores a second thread cut
    # throughput to a ninth when OpenMP was left to spin.
    Flag("n_threads", ("-t", "--threads"), 1, "CPU threads that decode"),
    Flag("n_threads_batch", ("-tb", "--threads-batch"), None, "CPU threads that process prompts; None: as --threads"),
    Flag("cache_type_k", ("-ctk", "--cache-type-k"), "f16", "data type of the keys in the KV cache", CACHE_TYPES),
    Flag("cache_type_v", ("-ctv", "--cache-type-v"), "f16", "data type of the values in the KV cache", CACHE_TYPES),
    Flag("flash_attn", ("-fa", "--flash-attn"), "auto", "flash attention", ("on", "off", "auto")),
    Flag("cont_batching", ("-cb", "--cont-batching"), True, "let new requests join a running batch"),
    # llama-server turns it on when --parallel is not given and off when it is. Here one parameter never changes another.
    Flag("kv_unified", ("-kvu", "--kv-unified"), True, "one KV cache shared by all slots"),
    Flag("cache_prompt", ("--cache-prompt",), True, "reuse the part of a prompt that a slot has seen before"),
)
BY_PARAMETER = {flag.parameter: flag for flag in FLAGS}

OWN_FLAGS = {
    **dict.fromkeys(("-m", "--model"), Spelling("model", "str")),
    **dict.fromkeys(("-a", "--alias"), Spelling("alias", "str")),
    "--host": Spelling("host", "str"),
    "--port": Spelling("port", "int"),
    "--metrics": Spelling("metrics", "bool"),
    **dict.fromkeys(("-v", "--verbose"), Spelling("verbose", "bool")),
}
"""What is no parameter: tuner itself decides it."""

SPELLINGS = OWN_FLAGS | {word: spelling for flag in FLAGS for word, spelling in flag.spellings.items()}
"""What each word of a command line means that begins with a dash."""


def check(configuration: Mapping[str, Value]) -> None:
    """Refuses what llama.cpp certainly refuses (each rule seen in xllamacpp 2026.10.11549).

    Args:
        configuration: Values that passed `Flag.words` one by one.

    Raises:
        Infeasible: names the rule.
    """
    full: dict[str, Value | None] = {flag.parameter: flag.default for flag in FLAGS} | dict(configuration)
    if int(full["n_batch"] or 0) < int(full["n_parallel"] or 0):
        raise Infeasible(
            f"n_batch={full['n_batch']} must be at least n_parallel={full['n_parallel']}: a step decodes a token of every slot"
        )
    if full["flash_attn"] in ("off", False) and full["cache_type_v"] not in UNQUANTIZED_CACHE_TYPES:
        raise Infeasible(f"cache_type_v={full['cache_type_v']} needs flash_attn: on or auto")
