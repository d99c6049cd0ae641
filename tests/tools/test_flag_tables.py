from __future__ import annotations

import ast
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tools.flag_tables import sglang, vllm
from tools.flag_tables.flag import Flag
from tools.flag_tables.wheel import Wheel

FLAGS = Path(__file__).parents[2] / "tuner/engines/flags"
REFERENCE = Path(__file__).parents[3] / "shared/reference"


def table(name: str) -> dict[str, Any]:
    flags: dict[str, Any] = json.loads((FLAGS / f"{name}.json").read_text())["flags"]
    return flags


def dump(name: str) -> dict[str, Any]:
    path = REFERENCE / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    fields: dict[str, Any] = json.loads(path.read_text())
    return fields


def wheel(folder: Path, name: str, sources: Mapping[str, str]) -> Wheel:
    path = folder / f"{name}-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        for module, source in sources.items():
            file.writestr(module, source)
    return Wheel(path)


SGLANG = {
    "sglang/srt/arg_groups/choices.py": "BACKENDS = ['fa3', 'triton']\n",
    "sglang/srt/arg_groups/fields/memory.py": """
import argparse
from sglang.srt.arg_groups.choices import BACKENDS

class Memory(msgspec.Struct):
    mem_fraction_static: A[Optional[float], "The fraction."] = None
    tp_size: A[int, Arg(help="Parallel.", aliases=["--tensor-parallel-size"])] = 1
    backend: A[Optional[str], Arg(help="Backend.", choices=BACKENDS + ["auto"])] = None
    level: A[Literal[1, 2], "Level."] = 1
    sizes: A[Optional[List[int]], Arg(help="Sizes.")] = None
    mixed: A[bool, "Deprecated. Use --other instead."] = False
    fused: A[Optional[bool], Arg(help="Fused.", action=argparse.BooleanOptionalAction)] = None
    overrides: A[Optional[Dict[str, Any]], Arg(help="JSON.", type_parser=json.loads)] = None
    hidden: A[bool, Arg(no_cli=True)] = False
    computed: A[int, Derived(doc="At run time.")]
""",
    "sglang/srt/server_args.py": """
class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--old", dest="new", action=DeprecatedStoreTrueAction, help="Deprecated. Use --new instead.")
        parser.add_argument("--parser", type=str, choices=["auto"] + names())

def names():
    from sglang.srt.names import NAMES
    return list(NAMES)

ServerArgs = msgspec.defstruct("ServerArgs", [])
""",
    "sglang/srt/names.py": "NAMES = ('json', 'xml')\n",
}


def test_sglangs_annotated_fields(tmp_path: Path) -> None:
    assert sglang.read(wheel(tmp_path, "sglang", SGLANG)) == {
        "mem_fraction_static": Flag("--mem-fraction-static", "float"),
        "tp_size": Flag("--tp-size", "int", aliases=["--tensor-parallel-size"]),
        "backend": Flag("--backend", choices=["fa3", "triton", "auto"]),
        "level": Flag("--level", "int", choices=[1, 2]),
        "sizes": Flag("--sizes", "int", nargs="+"),
        "mixed": Flag("--mixed", "bool", switch=True, deprecated="Deprecated. Use --other instead."),
        "fused": Flag("--fused", "bool", switch=True, off=["--no-fused"]),
        "overrides": Flag("--overrides"),
        "new": Flag("--old", "bool", switch=True, deprecated="Deprecated. Use --new instead."),
        "parser": Flag("--parser", choices=["auto", "json", "xml"]),
    }


VLLM = {
    "vllm/config/scheduler.py": """
Policy = Literal["priority", "fcfs"]

@config
class BaseConfig:
    seed: int = 0

@config
class SchedulerConfig(BaseConfig):
    max_num_seqs: int = Field(default=128, ge=1)
    share: Annotated[float, Gt(0)] = 0.92
    policy: Policy = "fcfs"
    dtype: Policy | str = "auto"
    enable_chunked_prefill: bool | None = None
    sizes: list[int] | None = None
    token: bool | str | None = None
    nested: BaseConfig | None = None
    never: Policy = "fcfs"
""",
    "vllm/engine/arg_utils.py": """
from vllm.config.scheduler import SchedulerConfig

MESSAGE = "--dtype is deprecated and will be removed."

class EngineArgs:
    @staticmethod
    def add_cli_args(parser):
        kwargs = get_kwargs(SchedulerConfig)
        kwargs["policy"]["choices"].remove("priority")
        group = parser.add_argument_group(title="x")
        group.add_argument("--seed", **kwargs["seed"])
        group.add_argument("--max-num-seqs", "-n", **{**kwargs["max_num_seqs"], "default": None})
        group.add_argument("--share", "--part", dest="share", **kwargs["share"])
        group.add_argument("--scheduling-policy", **kwargs["policy"])
        group.add_argument("--dtype", **{**kwargs["dtype"], "help": MESSAGE})
        group.add_argument("--enable-chunked-prefill", **kwargs["enable_chunked_prefill"])
        group.add_argument("--sizes", **kwargs["sizes"])
        group.add_argument("--token", **kwargs["token"])
        nested = get_kwargs(SchedulerConfig)["nested"]
        group.add_argument("--nested", **nested)
        parser.add_argument("--disable-log-stats", action="store_true")

class AsyncEngineArgs(EngineArgs):
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--backend", choices=["a", "b"], default=None)
""",
    "vllm/entrypoints/common/cli_args.py": """
class BaseFrontendArgs:
    response_role: str = "assistant"

    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        return frontend_kwargs

class FrontendArgs(BaseFrontendArgs):
    port: int = 8000
    allowed_origins: list[str] = field(default_factory=list)

    @classmethod
    def _customize_cli_kwargs(cls, frontend_kwargs):
        del frontend_kwargs["allowed_origins"]["nargs"]
        return frontend_kwargs

def make_arg_parser(parser):
    parser.add_argument("model_tag", nargs="?")
    parser.add_argument("--headless", action="store_true")
""",
}


def test_vllms_config_fields(tmp_path: Path) -> None:
    assert vllm.read(wheel(tmp_path, "vllm", VLLM)) == {
        "headless": Flag("--headless", "bool", switch=True),
        "response_role": Flag("--response-role"),
        "port": Flag("--port", "int"),
        "allowed_origins": Flag("--allowed-origins"),
        "seed": Flag("--seed", "int"),
        "max_num_seqs": Flag("--max-num-seqs", "int", aliases=["-n"]),
        "share": Flag("--share", "float", aliases=["--part"]),
        "scheduling_policy": Flag("--scheduling-policy", choices=["fcfs"]),
        "dtype": Flag("--dtype", deprecated="--dtype is deprecated and will be removed."),
        "enable_chunked_prefill": Flag(
            "--enable-chunked-prefill", "bool", switch=True, off=["--no-enable-chunked-prefill", "--disable-chunked-prefill"]
        ),
        "sizes": Flag("--sizes", "int", nargs="+"),
        "token": Flag("--token", nargs="?"),
        "nested": Flag("--nested"),
        "disable_log_stats": Flag("--disable-log-stats", "bool", switch=True),
        "backend": Flag("--backend", choices=["a", "b"]),
    }


@pytest.mark.parametrize("path", sorted(FLAGS.glob("*.json")), ids=lambda path: path.stem)
def test_the_tables_are_one_flag_to_a_line_and_sorted(path: Path) -> None:
    content = json.loads(path.read_text())
    assert path.stem == f"{content['engine']}-{content['version']}"
    names = list(content["flags"])
    assert names == sorted(names)
    assert len(path.read_text().splitlines()) == len(names) + 7
    for name, flag in content["flags"].items():
        Flag(**flag)
        assert flag["type"] in ("int", "float", "str", "bool"), name
        assert (flag["type"] == "bool") == flag["switch"], name


def test_no_way_to_write_a_flag_belongs_to_two() -> None:
    for path in FLAGS.glob("*.json"):
        flags = json.loads(path.read_text())["flags"].values()
        written = [word for flag in flags for word in (flag["flag"], *flag["aliases"], *flag["off"])]
        assert sorted(written) == sorted(set(written))


def test_sglangs_table_agrees_with_the_dump_of_its_arguments() -> None:
    flags = table("sglang-0.5.23")
    for name, dumped in dump("sglang_0.5.23_args.json").items():
        if "no_cli" in dumped["extra"]:
            continue
        flag = flags[name]
        aliases = dumped["extra"].get("aliases")
        assert flag["aliases"] == (ast.literal_eval(aliases) if aliases else [])
        kind = dumped["type"].removeprefix("Optional[").removesuffix("]") if dumped["type"].startswith("Optional[") else dumped["type"]
        if kind in ("int", "float", "bool") and "type_parser" not in dumped["extra"]:
            assert flag["type"] == kind, name
        if kind == "str":
            assert flag["type"] == "str", name
        if dumped["choices"] and dumped["choices"].startswith("["):
            assert flag["choices"] == ast.literal_eval(dumped["choices"]), name
        elif dumped["choices"]:
            assert flag["choices"], name
        if kind.startswith("Literal[") and not dumped["choices"]:
            assert [str(choice) for choice in flag["choices"]] == [part.strip("' ") for part in kind[8:-1].split(",")]


def test_vllms_table_agrees_with_the_dump_of_its_config_classes() -> None:
    flags = table("vllm-0.33.0")
    compared = 0
    for key, dumped in dump("vllm_0.33.0_config.json").items():
        flag = flags.get(key.partition(".")[2])
        kind = dumped["type"].removeprefix("InitVar[").removesuffix(" | None").removesuffix("]")
        if flag and kind in ("int", "float", "bool", "str"):
            compared += 1
            assert flag["type"] == kind, key
    assert compared > 50


def test_vllms_table_holds_the_model_and_server_flags_too() -> None:
    flags = table("vllm-0.33.0")
    assert {"max_model_len", "dtype", "quantization", "tokenizer", "trust_remote_code", "host", "port", "served_model_name"} <= flags.keys()
    assert flags["max_model_len"]["type"] == "int"
    assert flags["enable_prefix_caching"]["off"] == ["--no-enable-prefix-caching", "--disable-prefix-caching"]


def test_the_old_name_of_the_graph_batch_size_is_no_flag_of_sglang_0_5_23() -> None:
    flags = table("sglang-0.5.23")
    assert "cuda_graph_max_bs" not in flags
    assert {"cuda_graph_max_bs_decode", "cuda_graph_max_bs_prefill"} <= flags.keys()
