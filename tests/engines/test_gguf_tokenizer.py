from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engines.serving import post_json, running
from tuner.engines import random_llama
from tuner.engines.gguf_tokenizer import tokenizer_folder
from tuner.engines.llamacpp import LlamaCpp
from tuner.errors import ConfigError

LINES = (
    "Hello, world!",
    "  two spaces  and\ttabs\nand lines",
    "naïve café, 東京 and 🙂",
    "x = y[3] * 1e-5  # 12345 they'll don't",
    "The interpreter evaluates the arguments of a function call from left to right.",
    "",
)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def nano_gguf(engine: LlamaCpp) -> Path:
    return Path(engine.describe()["model_file"])


def encode(folder: Path, text: str) -> list[int]:
    from tokenizers import Tokenizer

    return list(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids)


def test_byte_level_bpe_comes_back_as_it_was(nano_engine: LlamaCpp) -> None:
    folder = tokenizer_folder(nano_gguf(nano_engine))
    for line in LINES:
        assert encode(folder, line) == encode(Path(nano_engine.tokenizer), line)
    assert encode(folder, "<|user|>Hello<|end|>")[0] == random_llama.SPECIAL_TOKENS.index("<|user|>")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["unk_token"]) == ("<s>", "</s>", "<unk>")
    assert config["chat_template"] == random_llama.CHAT_TEMPLATE


def test_built_once(nano_engine: LlamaCpp) -> None:
    assert tokenizer_folder(nano_gguf(nano_engine)) == tokenizer_folder(nano_gguf(nano_engine))


def test_a_gguf_path_brings_its_tokenizer(nano_engine: LlamaCpp) -> None:
    engine = LlamaCpp(model=str(nano_gguf(nano_engine)))
    engine.prepare()
    assert (Path(engine.tokenizer) / "tokenizer.json").is_file()


def test_a_tokenizer_of_the_users_wins(nano_engine: LlamaCpp) -> None:
    engine = LlamaCpp(model=str(nano_gguf(nano_engine)), tokenizer="some/hub-id")
    engine.prepare()
    assert engine.tokenizer == "some/hub-id"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("model", "rwkv", "kind 'rwkv' cannot be rebuilt"), ("pre", "tekken", "pre-tokenizer 'tekken' cannot be rebuilt")],
)
def test_unknown_kinds_ask_for_a_tokenizer(tmp_path: Path, field: str, value: str, message: str) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, {"model": "gpt2", "pre": "gpt-2", field: value})
    with pytest.raises(ConfigError, match=f"{message}.*set engine.tokenizer"):
        tokenizer_folder(path)


def test_what_is_no_gguf_is_said(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a model, but long enough to be read as one")
    with pytest.raises(ConfigError, match="not a readable GGUF"):
        tokenizer_folder(tmp_path / "m.gguf")


@pytest.mark.slow
def test_sentence_piece_splits_as_the_server_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model = tmp_path / "pieces.gguf"
    write_sentence_piece_model(model, monkeypatch)
    engine = LlamaCpp(model=str(model), args={"n_ctx": 1024})
    engine.prepare()
    with running(engine, {}, tmp_path / "log") as endpoint:
        for line in LINES:
            assert encode(Path(engine.tokenizer), line) == post_json(endpoint, "/tokenize", {"content": line})["tokens"], line


@pytest.mark.slow
@pytest.mark.parametrize("pre", ["llama-bpe", "qwen2"])
def test_pre_tokenizers_split_as_the_server_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pre: str) -> None:
    import gguf

    model = tmp_path / f"{pre}.gguf"
    with monkeypatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "add_tokenizer_pre", lambda self, _: self.add_string("tokenizer.ggml.pre", pre))
        patch.setattr(random_llama, "MODEL_FILE", model)
        random_llama.RandomLlama("nano", "q8_0").folder()
    engine = LlamaCpp(model=str(model), args={"n_ctx": 1024})
    engine.prepare()
    with running(engine, {}, tmp_path / "log") as endpoint:
        for line in LINES:
            assert encode(Path(engine.tokenizer), line) == post_json(endpoint, "/tokenize", {"content": line})["tokens"], line


def write_gguf(path: Path, fields: dict[str, str]) -> None:
    """Metadata only, with a vocabulary of two tokens."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "llama")
    for name, value in fields.items():
        writer.add_string(f"tokenizer.ggml.{name}", value)
    writer.add_token_list(["a", "b"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_sentence_piece_model(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The nano model with a SentencePiece vocabulary trained on the same corpus: the score of a piece tells when it was learned."""
    import gguf
    from tokenizers import Tokenizer, models, normalizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    corpus = [word for text in random_llama._corpus() for word in text.split()]
    bpe.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=1500, show_progress=False))
    learned = bpe.get_vocab()
    rows: list[tuple[str, int, float]] = [("<unk>", gguf.TokenType.UNKNOWN, 0.0)]
    rows += [(token, gguf.TokenType.CONTROL, 0.0) for token in ("<s>", "</s>")]
    rows += [(f"<0x{byte:02X}>", gguf.TokenType.BYTE, 0.0) for byte in range(256)]
    rows += [(piece, gguf.TokenType.NORMAL, -float(rank)) for piece, rank in sorted(learned.items())]

    class Pieces:
        def get_vocab(self) -> dict[str, int]:
            return {token: i for i, (token, _, _) in enumerate(rows)}

    def add_types(self: Any, _: object) -> None:
        gguf.GGUFWriter.add_array(self, "tokenizer.ggml.token_type", [int(kind) for _, kind, _ in rows])
        gguf.GGUFWriter.add_token_scores(self, [score for _, _, score in rows])

    with monkeypatch.context() as patch:
        patch.setattr(random_llama, "_merges", lambda _: ["a b"])
        patch.setattr(gguf.GGUFWriter, "add_tokenizer_model", lambda self, _: self.add_string("tokenizer.ggml.model", "llama"))
        patch.setattr(gguf.GGUFWriter, "add_tokenizer_pre", lambda self, _: self.add_string("tokenizer.ggml.pre", "default"))
        patch.setattr(gguf.GGUFWriter, "add_token_types", add_types)
        patch.setattr(gguf.GGUFWriter, "add_bos_token_id", lambda self, _: self.add_uint32("tokenizer.ggml.bos_token_id", 1))
        random_llama._write_gguf(path, "pieces", Pieces(), random_llama.SHAPES["nano"], "q8_0")  # type: ignore[arg-type]
