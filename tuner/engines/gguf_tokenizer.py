"""The tokenizer inside a GGUF file as a Hugging Face folder, without network: the load generator counts tokens as the server does."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuner.engines.model_cache import built_once
from tuner.errors import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

RECIPE = 1
"""Raised when a change of this module changes what it builds."""

HEADER_BYTES = 32 << 20
"""Read for the cache key. The metadata with the tokenizer comes first in a GGUF and is smaller than this; the rest is weights."""

SPACE = "▁"

# Regular expressions of the pre-tokenizers, by `tokenizer.ggml.pre`: llama.cpp, src/llama-vocab.cpp, `llm_tokenizer_bpe`. None: that of
# GPT-2, which `ByteLevel` has built in.
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SPLITS: dict[str, str | None] = {
    "gpt-2": None,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}"),
}


def tokenizer_folder(model: Path) -> Path:
    """The cached folder with `tokenizer.json` and `tokenizer_config.json` for the GGUF `model`; large vocabularies take some seconds once.

    Raises:
        ConfigError: the file is no GGUF, or its tokenizer is of a kind that cannot be rebuilt.
        OSError: the model cannot be read or the cache not be written.
    """
    with model.open("rb") as file:
        header = hashlib.sha256(file.read(HEADER_BYTES)).hexdigest()
    recipe = {"recipe": RECIPE, "header": header, "packages": {package: version(package) for package in ("gguf", "tokenizers")}}
    return built_once(f"{model.stem}-tokenizer", recipe, lambda folder: _build(model, folder))


def _build(model: Path, folder: Path) -> None:
    fields = _fields(model)
    kind = fields.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer = _byte_level(fields)
    elif kind == "llama" and "tokenizer.ggml.scores" in fields:
        tokenizer = _sentence_piece(fields)
    else:
        raise ConfigError(f"engine.model={model}: a tokenizer of kind {kind!r} cannot be rebuilt from a GGUF; set engine.tokenizer")
    _add_tokens(tokenizer, fields)
    tokenizer.save(str(folder / "tokenizer.json"))
    tokens = fields["tokenizer.ggml.tokens"]
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for role, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown")):
        if (token_id := fields.get(f"tokenizer.ggml.{key}_token_id")) is not None:
            config[role] = tokens[token_id]
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2))


def _fields(model: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(model)
    except (ValueError, IndexError, KeyError) as error:
        raise ConfigError(f"engine.model={model}: not a readable GGUF file ({error})") from error
    return {name: field.contents() for name, field in reader.fields.items() if name.startswith("tokenizer.")}


def _byte_level(fields: dict[str, Any]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    pre = fields.get("tokenizer.ggml.pre", "gpt-2")
    if pre not in _SPLITS:
        raise ConfigError(f"tokenizer of kind gpt2 with pre-tokenizer {pre!r} cannot be rebuilt from the GGUF; set engine.tokenizer")
    vocab = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    # llama.cpp takes a word whole when the vocabulary has it, for the pre-tokenizers of Llama 3 only.
    split = _SPLITS[pre]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=split is _LLAMA3))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level]) if split else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(fields: dict[str, Any]) -> Tokenizer:
    from gguf import TokenType
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    types: list[int] = fields["tokenizer.ggml.token_type"]
    scores: list[float] = fields["tokenizer.ggml.scores"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges: list[tuple[float, int, int]] = []
    for token, kind, score in zip(tokens, types, scores, strict=True):
        if kind == TokenType.NORMAL:
            splits = ((vocab.get(token[:cut]), vocab.get(token[cut:])) for cut in range(1, len(token)))
            merges += sorted((-score, left, right) for left, right in splits if left is not None and right is not None)
    # Among equal scores the order of the pieces stays; only the score decides between pieces.
    merges.sort(key=lambda merge: merge[0])
    unknown = fields.get("tokenizer.ggml.unknown_token_id")
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=[(tokens[left], tokens[right]) for _, left, right in merges],
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = [normalizers.Prepend(SPACE)] if fields.get("tokenizer.ggml.add_space_prefix", True) else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", SPACE)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, fields: dict[str, Any]) -> None:
    from gguf import TokenType
    from tokenizers import AddedToken

    typed = list(zip(fields["tokenizer.ggml.tokens"], fields.get("tokenizer.ggml.token_type", []), strict=False))
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in typed if kind == TokenType.CONTROL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t, kind in typed if kind == TokenType.USER_DEFINED])
