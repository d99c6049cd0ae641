"""Small Llama models with random weights, made on first use: what they write is nonsense, what they cost is real.

They need no download. `nano` is for functional tests; `micro` as F32 is bound by memory bandwidth like a model on a GPU, so that batching
pays and the trade-off between latency and throughput is visible on two CPU cores.
"""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from pydoc_data import topics
from typing import TYPE_CHECKING, Any

from tuner.engines.model_cache import built_once

if TYPE_CHECKING:
    import gguf
    import numpy as np
    from tokenizers import Tokenizer

    Matrix = np.ndarray[Any, np.dtype[np.float32]]

CONTEXT = 8192
SEED = 0
RECIPE = 1
"""Raised when a change of this module changes what it builds."""

MODEL_FILE = "model.gguf"
TOKENIZER_FOLDER = "tokenizer"

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
UNK, BOS, EOS = 0, 1, 2
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' }}{{ m['content'] }}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# What may come out of greedy decoding: `Ġ` is the byte-level space, the rest printable ASCII. Part of a UTF-8 character, a control token or
# an empty text as the first chunk would spoil the time to first token.
SAYABLE = frozenset("Ġ" + string.ascii_letters + string.digits + string.punctuation)


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a Llama model, in the terms of its `config.json`."""

    hidden: int
    layers: int
    ffn: int
    heads: int
    kv_heads: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


SHAPES = {
    "nano": Shape(hidden=256, layers=4, ffn=768, heads=4, kv_heads=2, vocab=2048),
    "micro": Shape(hidden=512, layers=8, ffn=1536, heads=8, kv_heads=4, vocab=4096),
}
DEFAULT_WEIGHTS = {"nano": "q8_0", "micro": "f32"}
WEIGHTS = ("f32", "f16", "bf16", "q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class RandomLlama:
    """A random-weight model by name.

    Attributes:
        size: Key of `SHAPES`.
        weights: One of `WEIGHTS`.
    """

    size: str
    weights: str

    @classmethod
    def parse(cls, name: str) -> RandomLlama | None:
        """The model that `name` means (`micro`, `micro-q8_0`), or None when it means something else."""
        size, _, weights = name.partition("-")
        weights = weights or DEFAULT_WEIGHTS.get(size, "")
        return cls(size, weights) if size in SHAPES and weights in WEIGHTS else None

    def folder(self) -> Path:
        """The cached folder with `model.gguf` and `tokenizer/`, built in about a second if missing. Deterministic.

        Raises:
            ImportError: the packages gguf, tokenizers or numpy are missing.
            OSError: the cache cannot be written.
        """
        shape = SHAPES[self.size]
        recipe = {
            "recipe": RECIPE,
            "shape": asdict(shape),
            "weights": self.weights,
            "seed": SEED,
            "corpus": hashlib.sha256("".join(_corpus()).encode()).hexdigest(),
            "packages": {package: version(package) for package in ("gguf", "tokenizers", "numpy")},
        }
        return built_once(f"{self.size}-{self.weights}", recipe, self._build)

    def _build(self, folder: Path) -> None:
        shape = SHAPES[self.size]
        tokenizer = _train_tokenizer(shape.vocab)
        _write_tokenizer(folder / TOKENIZER_FOLDER, tokenizer, shape)
        _write_gguf(folder / MODEL_FILE, f"tuner-{self.size}-{self.weights}", tokenizer, shape, self.weights)


def _corpus() -> list[str]:
    # About 0.7 MB of English that comes with every CPython.
    return list(topics.topics.values())


def _train_tokenizer(vocab: int) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _write_tokenizer(folder: Path, tokenizer: Tokenizer, shape: Shape) -> None:
    """A Hugging Face folder; its `config.json` lets vLLM serve the same shape with `--load-format dummy`."""
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": SPECIAL_TOKENS[BOS],
        "eos_token": SPECIAL_TOKENS[EOS],
        "unk_token": SPECIAL_TOKENS[UNK],
        "model_max_length": CONTEXT,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "intermediate_size": shape.ffn,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": tokenizer.get_vocab_size(),
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config, indent=2))
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _tensors(shape: Shape, tokens: list[str]) -> Iterator[tuple[str, Matrix]]:
    """The weights in the order in which they are drawn; the order is part of the recipe."""
    import numpy as np

    rng = np.random.default_rng(SEED)
    kv = shape.kv_heads * shape.head_dim

    def drawn(rows: int, columns: int) -> Matrix:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    ones = np.ones(shape.hidden, np.float32)
    yield "token_embd.weight", drawn(len(tokens), shape.hidden)
    output = drawn(len(tokens), shape.hidden)
    # A logit of 0 never wins the argmax against thousands of random ones.
    output[[i for i, token in enumerate(tokens) if token in SPECIAL_TOKENS or not SAYABLE.issuperset(token)]] = 0
    yield "output.weight", output
    yield "output_norm.weight", ones
    for layer in range(shape.layers):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", ones
        yield f"{block}.attn_q.weight", drawn(shape.hidden, shape.hidden)
        yield f"{block}.attn_k.weight", drawn(kv, shape.hidden)
        yield f"{block}.attn_v.weight", drawn(kv, shape.hidden)
        yield f"{block}.attn_output.weight", drawn(shape.hidden, shape.hidden)
        yield f"{block}.ffn_norm.weight", ones
        yield f"{block}.ffn_gate.weight", drawn(shape.ffn, shape.hidden)
        yield f"{block}.ffn_up.weight", drawn(shape.ffn, shape.hidden)
        yield f"{block}.ffn_down.weight", drawn(shape.hidden, shape.ffn)


def _write_gguf(path: Path, name: str, tokenizer: Tokenizer, shape: Shape, weights: str) -> None:
    import gguf

    vocab = tokenizer.get_vocab()
    tokens = sorted(vocab, key=lambda token: vocab[token])
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(name)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_file_type(_file_type(weights))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL_TOKENS else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(_merges(tokenizer))
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_unk_token_id(UNK)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    kind = gguf.GGMLQuantizationType[weights.upper()]
    for tensor_name, tensor in _tensors(shape, tokens):
        if tensor.ndim == 1 or weights == "f32":
            writer.add_tensor(tensor_name, tensor)
        else:
            writer.add_tensor(tensor_name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _file_type(weights: str) -> gguf.LlamaFileType:
    import gguf

    return gguf.LlamaFileType["ALL_F32" if weights == "f32" else f"MOSTLY_{weights.upper()}"]


def _merges(tokenizer: Tokenizer) -> list[str]:
    # Newer versions of tokenizers store a merge as a pair, older ones as "a b", which is also GGUF's way.
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
