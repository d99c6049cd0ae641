from __future__ import annotations

import errno
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from tests.engines.fake_hub import COMMIT, GOOD_TOKEN, FakeHub
from tuner.engines import hub
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import Infeasible, Systemic
from tuner.launch import Mount

MODEL = "org/tiny"
BAD_TOKEN = "hf_badTokenOfTests"
CONFIG = json.dumps({"model_type": "llama", "num_attention_heads": 6}).encode()
FILES = {
    "config.json": CONFIG,
    "tokenizer.json": b"{}",
    "model.safetensors": b"weights",
    "pytorch_model.bin": b"the same weights",
    "original/consolidated.00.pth": b"the same weights",
    "tiny.gguf": b"the same weights",
}


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def fake_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with FakeHub() as fake:
        fake.models[MODEL] = dict(FILES)
        monkeypatch.setattr(constants, "ENDPOINT", fake.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", fake.url + "/{repo_id}/resolve/{revision}/{filename}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache.with_name("token")))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_HUB_OFFLINE", "HF_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        yield fake


def cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on nobody listens where the hub was."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")


class TestFetch:
    def test_the_weights_once_and_no_copies_of_them(self, fake_hub: FakeHub, cache: Path) -> None:
        snapshot = hub.fetch(MODEL, "engine.model", weights=True)
        assert snapshot.folder == cache / "models--org--tiny" / "snapshots" / COMMIT
        assert (snapshot.folder / "config.json").read_bytes() == CONFIG
        assert snapshot.commit == COMMIT
        assert snapshot.storage == cache / "models--org--tiny"
        assert fake_hub.downloaded() == {"config.json", "tokenizer.json", "model.safetensors"}

    def test_pickled_weights_where_there_are_no_others(self, fake_hub: FakeHub) -> None:
        del fake_hub.models[MODEL]["model.safetensors"]
        hub.fetch(MODEL, "engine.model", weights=True)
        assert fake_hub.downloaded() == {"config.json", "tokenizer.json", "pytorch_model.bin"}

    def test_what_describes_a_model_without_its_weights(self, fake_hub: FakeHub) -> None:
        fake_hub.models[MODEL]["model.safetensors.index.json"] = b'{"weight_map": {"a": "model.safetensors"}}'
        hub.fetch(MODEL, "engine.model", weights=False)
        assert fake_hub.downloaded() == {"config.json", "tokenizer.json", "model.safetensors.index.json"}

    def test_the_second_time_nothing_is_downloaded(self, fake_hub: FakeHub) -> None:
        hub.fetch(MODEL, "engine.model", weights=True)
        fake_hub.asked.clear()
        hub.fetch(MODEL, "engine.model", weights=True)
        assert fake_hub.downloaded() == set()

    @pytest.mark.parametrize("how", ["cut off", "down", "bad token", "switched off"])
    def test_without_the_hub_the_cache_will_do(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
        first = hub.fetch(MODEL, "engine.model", weights=True)
        fake_hub.down = how == "down"
        if how == "cut off":
            cut_off(monkeypatch)
        elif how == "bad token":
            monkeypatch.setenv("HF_TOKEN", BAD_TOKEN)
        elif how == "switched off":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert hub.fetch(MODEL, "engine.model", weights=True) == first

    def test_without_the_hub_what_another_program_left_out_is_not_missed(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        fake_hub.models[MODEL] |= {"README.md": b"read me", ".gitattributes": b""}
        folder = huggingface_hub.snapshot_download(MODEL, allow_patterns=["*.safetensors", "*.json"])
        cut_off(monkeypatch)
        assert hub.fetch(MODEL, "engine.model", weights=True).folder == Path(folder)

    @pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
    def test_without_the_hub_half_a_model_will_not_do(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, lost: str) -> None:
        snapshot = hub.fetch(MODEL, "engine.model", weights=True)
        (snapshot.folder / lost).unlink()
        cut_off(monkeypatch)
        with pytest.raises(Systemic, match=r"^engine\.model=org/tiny: the hub cannot be reached"):
            hub.fetch(MODEL, "engine.model", weights=True)

    def test_a_missing_shard_is_noticed_where_another_program_filled_the_cache(
        self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake_hub.models[MODEL] |= {
            "a.safetensors": b"a",
            "model.safetensors.index.json": b'{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}',
        }
        cut = huggingface_hub.snapshot_download(MODEL)
        for listing in Path(cut).parents[1].glob("trees/*"):
            listing.unlink()
        cut_off(monkeypatch)
        with pytest.raises(Systemic, match=r"b\.safetensors is missing in "):
            hub.fetch(MODEL, "engine.model", weights=True)

    @pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
    def test_a_model_that_is_not_whole_on_the_hub(self, fake_hub: FakeHub, lost: str) -> None:
        fake_hub.models[MODEL] = {"README.md": b"soon"} | {
            name: FILES[name] for name in ("config.json", "model.safetensors") if name != lost
        }
        with pytest.raises(Systemic, match=r"is missing in .*: the hub has no whole model there"):
            hub.fetch(MODEL, "engine.model", weights=True)

    def test_a_broken_index(self, fake_hub: FakeHub) -> None:
        fake_hub.models[MODEL]["model.safetensors.index.json"] = b"[]"
        with pytest.raises(Systemic, match="a readable model"):
            hub.fetch(MODEL, "engine.model", weights=True)

    def test_an_adapter_is_whole_without_a_models_configuration(self, fake_hub: FakeHub) -> None:
        fake_hub.models["org/adapter"] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"weights"}
        hub.fetch("org/adapter", "engine.args.lora_paths", weights=True)


class TestRefusals:
    def refusal(self, caplog: pytest.LogCaptureFixture, model: str = MODEL, revision: str | None = None) -> str:
        with caplog.at_level(logging.DEBUG), pytest.raises(Systemic) as caught:
            hub.fetch(model, "engine.model", True, revision)
        assert "\n" not in caught.value.reason
        for token in (GOOD_TOKEN, BAD_TOKEN):
            assert token not in caught.value.reason + caught.value.detail + caplog.text
        return caught.value.reason

    @pytest.mark.parametrize("token", ["", GOOD_TOKEN])
    def test_no_such_model(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, token: str) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        reason = self.refusal(caplog, "org/absent")
        assert (
            reason == "engine.model=org/absent: the hub has no such model, or it is private: check the name; for a private one set HF_TOKEN"
        )

    @pytest.mark.parametrize("token", ["", GOOD_TOKEN])
    def test_gated(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, token: str) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        fake_hub.gated.add(MODEL)
        assert f"the model is gated: ask for access at {fake_hub.url}/org/tiny" in self.refusal(caplog)

    def test_bad_token(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setenv("HF_TOKEN", BAD_TOKEN)
        assert "the hub refuses your token" in self.refusal(caplog)

    def test_no_such_revision(self, fake_hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
        assert "engine.args.revision" in self.refusal(caplog, revision="v9")

    def test_no_network(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cache: Path) -> None:
        cut_off(monkeypatch)
        assert f"the hub cannot be reached and the model is not in the cache {cache}" in self.refusal(caplog)

    def test_switched_off(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "the hub is switched off (HF_HUB_OFFLINE)" in self.refusal(caplog)

    def test_a_hub_in_trouble(self, fake_hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
        fake_hub.down = True
        assert "the hub answers 502" in self.refusal(caplog)

    def test_neither_path_nor_id(self, fake_hub: FakeHub, caplog: pytest.LogCaptureFixture) -> None:
        assert "neither a directory of this host nor a hub id" in self.refusal(caplog, "a/b/c")

    @pytest.mark.parametrize(("number", "said"), [(errno.ENOSPC, "no space left"), (errno.EACCES, "cannot be written")])
    def test_a_cache_that_takes_nothing(
        self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int, said: str
    ) -> None:
        def fail(*_: object, **__: object) -> str:
            raise OSError(number, "no")

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        assert said in self.refusal(caplog)


class TestLaunch:
    def test_servers_read_the_snapshot_and_get_no_token(self, fake_hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        engine = Sglang(MODEL)
        engine.prepare()
        spec = engine.launch({}, "t7")
        storage = cache / "models--org--tiny"
        folder = storage / "snapshots" / COMMIT
        assert spec.argv[3:5] == ("--model-path", str(folder))
        assert spec.served_model == "tiny-t7"
        assert spec.mounts == (Mount(storage, str(storage)),)
        assert spec.env == {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
        assert (engine.model_folder, engine.tokenizer) == (folder, str(folder))
        assert engine.describe()["model_revision"] == COMMIT

    def test_the_users_tokenizer_wins(self, fake_hub: FakeHub) -> None:
        engine = Sglang(MODEL, tokenizer="org/other")
        engine.prepare()
        assert engine.tokenizer == "org/other"

    def test_further_models_and_files(self, fake_hub: FakeHub, cache: Path, tmp_path: Path) -> None:
        fake_hub.models |= {"org/draft": FILES, "org/adapter": FILES}
        (tmp_path / "chat.jinja").touch()
        args = {
            "speculative_draft_model_path": "org/draft",
            "lora_paths": f"a=org/adapter b={tmp_path}",
            "chat_template": f"{tmp_path}/chat.jinja",
            "tokenizer_path": MODEL,
        }
        engine = Sglang(MODEL, args)
        engine.prepare()
        spec = engine.launch({}, "t")
        words = " ".join(spec.argv)
        assert f"--speculative-draft-model-path {cache}/models--org--draft/snapshots/{COMMIT}" in words
        assert f"--lora-paths a={cache}/models--org--adapter/snapshots/{COMMIT} b={tmp_path}" in words
        assert f"--tokenizer-path {cache}/models--org--tiny/snapshots/{COMMIT}" in words
        assert {mount.source for mount in spec.mounts} == {
            *(cache / f"models--org--{name}" for name in ("tiny", "draft", "adapter")),
            tmp_path,
            tmp_path / "chat.jinja",
        }
        assert "HF_HUB_OFFLINE" in spec.env

    def test_a_model_named_in_json(self, fake_hub: FakeHub, cache: Path) -> None:
        fake_hub.models["org/draft"] = FILES
        engine = Vllm(MODEL, {"speculative_config": '{"model": "org/draft", "num_speculative_tokens": 3}'})
        engine.prepare()
        argv = engine.launch({}, "t").argv
        config = json.loads(argv[argv.index("--speculative-config") + 1])
        assert config == {"model": f"{cache}/models--org--draft/snapshots/{COMMIT}", "num_speculative_tokens": 3}

    def test_a_model_that_only_one_trial_names_is_fetched_by_its_server(self, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        engine = Sglang(MODEL)
        engine.prepare()
        spec = engine.launch({"speculative_draft_model_path": "org/draft"}, "t")
        assert "org/draft" in spec.argv
        assert spec.env == {"HF_TOKEN": GOOD_TOKEN}

    def test_a_missing_further_model_is_named(self, fake_hub: FakeHub) -> None:
        with pytest.raises(Systemic, match=r"^engine\.args\.speculative_draft_model_path=org/absent: the hub has no such model"):
            Sglang(MODEL, {"speculative_draft_model_path": "org/absent"}).prepare()

    def test_a_cache_on_another_host(self, fake_hub: FakeHub) -> None:
        engine = Sglang(MODEL, model_cache="/data/hub")
        engine.prepare()
        assert fake_hub.downloaded() == {"config.json", "tokenizer.json"}
        spec = engine.launch({}, "t")
        assert MODEL in spec.argv
        assert spec.mounts == (Mount(Path("/data/hub/models--org--tiny"), "/data/hub/models--org--tiny"),)
        assert spec.env == {"HF_HUB_CACHE": "/data/hub", "HF_HUB_OFFLINE": "1"}
        assert engine.tokenizer.endswith(COMMIT)

    def test_a_directory_of_another_host(self) -> None:
        with pytest.raises(Systemic, match=r"set engine\.tokenizer$"):
            Sglang("/data/llama", model_cache="/data/hub").prepare()
        engine = Sglang("/data/llama", model_cache="/data/hub", tokenizer="org/tiny")
        engine.prepare()
        spec = engine.launch({}, "t")
        assert (spec.mounts, spec.env) == ((Mount(Path("/data/llama"), "/data/llama"),), {})
        assert engine.model_folder is None

    def test_a_model_that_only_the_servers_hold(self, fake_hub: FakeHub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)
        engine = Sglang(MODEL, model_path="$(MODEL_PATH)")
        engine.prepare()
        assert fake_hub.downloaded() == {"config.json", "tokenizer.json"}
        spec = engine.launch({}, "t7")
        assert spec.argv[3:7] == ("--model-path", "$(MODEL_PATH)", "--served-model-name", "tiny-t7")
        assert (spec.mounts, spec.env) == ((), {})
        assert engine.tokenizer == str(engine.model_folder) == str(cache / "models--org--tiny" / "snapshots" / COMMIT)
        assert "model_revision" not in engine.describe()
        with pytest.raises(Infeasible, match="6 attention heads"):
            engine.launch({"tp_size": 4}, "t")

    def test_further_models_and_files_of_those_servers_are_theirs(self, fake_hub: FakeHub, tmp_path: Path) -> None:
        fake_hub.models["org/draft"] = dict(FILES)
        args = {
            "speculative_draft_model_path": "org/draft",
            "tokenizer_path": MODEL,
            "lora_paths": f"a={tmp_path}",
            "chat_template": "/sgl-workspace/template.jinja",
        }
        engine = Sglang(MODEL, args, model_path="$(MODEL_PATH)")
        engine.prepare()
        assert not any("org/draft" in line for line in fake_hub.asked)
        spec = engine.launch({}, "t")
        assert {name: spec.argv[spec.argv.index("--" + name.replace("_", "-")) + 1] for name in args} == args
        assert (spec.mounts, spec.env) == ((), {})

    def test_a_directory_here_stands_for_the_model_of_those_servers(self, tmp_path: Path) -> None:
        engine = Vllm(str(tmp_path), model_path="$(MODEL_PATH)")
        with pytest.raises(Systemic, match=r"config\.json is missing$"):
            engine.prepare()
        (tmp_path / "config.json").write_bytes(CONFIG)
        engine.prepare()
        assert engine.tokenizer == str(tmp_path)
        assert engine.launch({}, "t").argv[:3] == ("vllm", "serve", "$(MODEL_PATH)")
        with pytest.raises(Systemic, match="no such directory"):
            Vllm("/no/such", model_path="$(MODEL_PATH)").prepare()

    def test_a_snapshot_given_as_a_directory_is_mounted_with_what_its_links_point_to(self, fake_hub: FakeHub, cache: Path) -> None:
        snapshot = hub.fetch(MODEL, "engine.model", weights=True)
        engine = Sglang(str(snapshot.folder))
        engine.prepare()
        assert engine.launch({}, "t").mounts == (Mount(snapshot.storage, str(snapshot.storage)),)

    @pytest.mark.parametrize(
        ("engine", "good", "bad"),
        [
            (Sglang, {"tp_size": 2}, {"tp_size": 4}),
            (Sglang, {"tp_size": 4, "attn_dp_size": 2}, {"tp_size": 8, "attn_dp_size": 2}),
            (Vllm, {"tensor_parallel_size": 3}, {"tensor_parallel_size": 4}),
        ],
    )
    def test_attention_heads_are_shared_evenly(
        self, fake_hub: FakeHub, engine: type[Sglang] | type[Vllm], good: dict[str, int], bad: dict[str, int]
    ) -> None:
        prepared = engine(MODEL)
        prepared.prepare()
        prepared.launch(good, "t")
        with pytest.raises(Infeasible, match="6 attention heads cannot be shared by 4 GPUs evenly"):
            prepared.launch(bad, "t")


@pytest.mark.parametrize(
    ("text", "like_an_id"),
    [("org/name", True), ("Qwen/Qwen2.5-0.5B", True), ("gpt2", False), ("/a/b", False), ("./a", False), ("a/b/c", False)],
)
def test_what_reads_like_a_hub_id(text: str, like_an_id: bool) -> None:
    assert hub.is_id(text) is like_an_id
