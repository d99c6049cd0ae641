from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.serving import complete, post_json, running
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.random_llama import CHAT_TEMPLATE, DEFAULT_WEIGHTS, MODEL_FILE, SPECIAL_TOKENS, TOKENIZER_FOLDER, RandomLlama

MIXED = "Hello, world!  Tabs\tand\nlines; naïve café, 東京, 🙂 x = y[3] * 1e-5  # end"


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("nano", RandomLlama("nano", "q8_0")),
        ("micro", RandomLlama("micro", "f32")),
        ("micro-q8_0", RandomLlama("micro", "q8_0")),
        ("micro-f16", RandomLlama("micro", "f16")),
        ("micro-", RandomLlama("micro", "f32")),
        ("micro-q9", None),
        ("mini", None),
        ("./micro", None),
        ("", None),
    ],
)
def test_names(name: str, model: RandomLlama | None) -> None:
    assert RandomLlama.parse(name) == model


def test_every_size_has_default_weights() -> None:
    assert all(RandomLlama.parse(size) for size in DEFAULT_WEIGHTS)


def test_deterministic(nano_engine: LlamaCpp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = RandomLlama("nano", "q8_0").folder()
    first = Path(nano_engine.tokenizer).parent
    assert again != first
    assert again.name == first.name
    for file in (MODEL_FILE, f"{TOKENIZER_FOLDER}/tokenizer.json"):
        assert hashlib.sha256((again / file).read_bytes()).digest() == hashlib.sha256((first / file).read_bytes()).digest()


def test_tokenizer_folder(nano_engine: LlamaCpp) -> None:
    from tokenizers import Tokenizer

    folder = Path(nano_engine.tokenizer)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.decode(tokenizer.encode(MIXED).ids) == MIXED
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    config = json.loads((folder / "config.json").read_text())
    assert config["vocab_size"] == tokenizer.get_vocab_size() == 2048
    assert json.loads((folder / "tokenizer_config.json").read_text())["chat_template"] == CHAT_TEMPLATE


@pytest.mark.slow
def test_client_and_server_count_the_same_tokens(nano_engine: LlamaCpp, tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(nano_engine.tokenizer) / "tokenizer.json"))
    with running(nano_engine, {}, tmp_path / "log") as endpoint:
        assert post_json(endpoint, "/tokenize", {"content": MIXED})["tokens"] == tokenizer.encode(MIXED).ids


@pytest.mark.slow
def test_what_the_model_says_is_printable(nano_engine: LlamaCpp, tmp_path: Path) -> None:
    with running(nano_engine, {}, tmp_path / "log") as endpoint:
        answer: dict[str, Any] = complete(endpoint, "Once upon a time", max_tokens=200)
    text = answer["choices"][0]["text"]
    assert answer["usage"]["completion_tokens"] == 200
    assert text.isascii()
    assert text.isprintable()
    assert len(text) >= 200
