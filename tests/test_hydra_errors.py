"""What Hydra says about a wrong configuration comes out as one line."""

from __future__ import annotations

import re

import pytest
from hydra.errors import ConfigCompositionException

from tests.composing import complaint, work
from tuner.composition import compose
from tuner.hydra_errors import explain

__all__ = ["work"]

WRONG: list[tuple[list[str], str]] = [
    (
        ["+experiment=lama1b"],
        r"experiment=lama1b: no such option \(did you mean llama1b\?\); available: llama1b, llama1b_cpu, llama1b_ome, replay_demo",
    ),
    (["+experiment=[llama1b,x]"], r"experiment=x: no such option; available: llama1b, llama1b_cpu, llama1b_ome, replay_demo"),
    (["experiment=llama1b"], r"experiment: write it with a plus sign, \+experiment=\.\.\."),
    (["samplr=tpe"], r"samplr: no such key \(did you mean sampler\?\); `--cfg job` shows all keys"),
    (["backend=dokcer"], r"backend=dokcer: no such option \(did you mean docker\?\); available: auto, docker, local, ome, replay"),
    (["engine=sglng"], r"engine=sglng: no such option \(did you mean sglang\?\); available: llamacpp, replay, sglang, vllm"),
    (["workload.levls=[1]"], r"workload\.levls: no such key \(did you mean workload\.levels\?\); `--cfg job` shows all keys"),
    (
        ["space.n_parallel.hihg=8"],
        r"space\.n_parallel\.hihg: no such key \(did you mean space\.n_parallel\.high\?\); to add it, write \+.*",
    ),
    (["objectives.0.metrik=x"], r"objectives\.0\.metrik: no such key \(did you mean objectives\.0\.metric\?\); .*"),
    (["+experiment=llama1b", "space.tp_siz.high=2"], r"space\.tp_siz.*: no such key \(did you mean space\.tp_size.*"),
    (["engine.args.threads=1"], r"engine\.args\.threads: no such key.*; to add it, write \+engine\.args\.threads=\.\.\."),
    (["engine.args={threads: 1}"], r"engine\.args\.threads: no such key.*; to add it, write \+engine\.args\.threads=\.\.\."),
    (["space.x=1"], r"space\.x: no such key.*; to add it, write \+space\.x=\.\.\."),
    (["backend=ome", "backend.gpus=1"], r"backend\.gpus: no such key; `--cfg job` shows all keys"),
    (["backend=ome", "backend.queue_timeout=3"], r"backend\.queue_timeout: no such key \(did you mean backend\.queue_timeout_s\?\); .*"),
    (["backend=ome", "backend.model.nam=x"], r"backend\.model\.nam: no such key \(did you mean backend\.model\.name\?\); .*"),
    (["backend=ome", "~backend.lease"], r"~backend\.lease: no such key \(did you mean backend\.lease_s\?\); .*"),
    (["engine=vllm", "backend=docker", "backend.pul=x"], r"backend\.pul: no such key \(did you mean backend\.pull\?\); .*"),
    (
        ["+experiment=llama1b", "backend=ome", "backend.queue_timeout=3"],
        r"backend\.queue_timeout: no such key \(did you mean backend\.queue_timeout_s\?\); .*",
    ),
    (["-m", "backend=ome,docker", "backend.lease=3"], r"backend\.lease: no such key \(did you mean backend\.lease_s\?\); .*"),
    (["-m", "backend=docker,ome", "backend.pull=x"], r"backend\.pull: no such key(?! \(did you mean backend\.pull\?\)).*"),
    (["~trial"], r"~trial: no such key \(did you mean trials\?\); .*"),
    (["~engine=sglang"], r"Could not delete 'engine=sglang'\. .*"),
    (["+trials=3"], r"\+trials: the key is there already; write trials=\.\.\. without the plus sign"),
    (["+engine=vllm"], r"engine: chosen twice; write engine=\.\.\. without a plus sign, .*"),
    (["trials=1,2"], r"trials=1,2: several values; -m runs a study for each, brackets make one list of them: trials=\[1,2\]"),
    (["sampler=tpe,random"], r"sampler=tpe,random: several values; -m runs a study for each, .*"),
    (["space.n_parallel=[1,2]"], r"space\.n_parallel=\[1,2\]: a mapping and a list cannot stand for each other; .*"),
    (["constraints={metric: x}"], r"constraints=\{metric: x\}: a mapping and a list cannot stand for each other; .*"),
    (["objectives.7.metric=x"], r"objectives\.7\.metric=x: list index out of range; .*"),
    (
        ["objectives=[{metric: ttft_p99_s}]"],
        r"objectives=\[\{metric: ttft_p99_s\}\]: no name of an option; use goodput, latency_per_gpu, latency_throughput, .*",
    ),
    (["objectives=null"], r"objectives=null: no name of an option; .*"),
    (["space=[1]"], r"space=\[1\]: no name of an option; use llamacpp, sglang, vllm, your own conf/space/NAME\.yaml, or single keys .*"),
    (["sampler=5"], r"sampler=5: no name of an option; use ehvi, gp, grid, nsgaii, qmc, random, tpe, .*"),
    (["backend=5", "+experiment=llama1b_ome"], r"backend=5: .* or single keys as backend\.ome_namespace=\.\.\."),
    (
        ["+experiment=5"],
        r"\+experiment=5: no name of an option; use llama1b, llama1b_cpu, llama1b_ome, replay_demo, or your own conf/experiment/NAME\.yaml",
    ),
    (
        ["study_name=a(b"],
        r"""study_name: 'a\(b' cannot be read; text with signs in it needs quotes of its own, as in 'study_name="a\(b"'""",
    ),
    (
        ["space.constraints=[n_batch <= 64]"],
        r"""space\.constraints: .* cannot be read; .* as in 'space\.constraints=\["n_batch <= 64"\]'""",
    ),
    (["+space.x={when: a == 1}"], r"""\+space\.x: '\{when: a == 1\}' cannot be read; .* as in '\+space\.x=\{name: "a text"\}'"""),
    (["trials=???"], r"trials: missing; it needs a value, for example trials=\.\.\."),
    (["engine=sglang"], r"engine\.model: missing; it needs a value, for example engine\.model=\.\.\."),
    (["study_name=${engine.nam}"], r"study_name: Interpolation key 'engine\.nam' not found"),
    (["study_name=${oc.env:TUNER_HAS_NO_SUCH}"], r"study_name: .*Environment variable 'TUNER_HAS_NO_SUCH' not found.*"),
    (["study_name=${nosuch:1}"], r"study_name: Unsupported interpolation type nosuch"),
    (["study_name=${study_name}"], r"study_name: Recursive interpolation detected"),
    (["--config-dir=/nonexistent"], r"Additional config directory '/nonexistent' not found"),
    (["--config-name", "foo"], r"Cannot find primary config 'foo'.*"),
    (["--cfg", "jb"], r"argument --cfg/-c: invalid choice: 'jb' .*; `--hydra-help` lists all options"),
    (["--cfg"], r"argument --cfg/-c: expected one argument; .*"),
    (["--foo"], r"unrecognized arguments: --foo; .*"),
    (["--cfg", "job", "-m"], r"Only one of --run, --multirun, --cfg, .*"),
    (["--resolve"], r"The --resolve flag can only be used .*"),
    (["-m", "sampler=tpe,foo"], r"sampler=foo: no such option; available: ehvi, gp, grid, nsgaii, qmc, random, tpe"),
]


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_errors_are_one_line(arguments: list[str], line: str) -> None:
    message = complaint(*arguments)
    assert re.fullmatch(line, message), message


def test_a_key_is_proposed_where_the_choices_do_not_compose() -> None:
    with pytest.raises(ConfigCompositionException) as caught:
        compose(["samplr=tpe"])
    for broken in ("backend=nope", "backend=5", "engine=[1]", "+experiment={a: 1, b: 2}"):
        assert explain(caught.value, [broken, "samplr=tpe"]).startswith("samplr: no such key (did you mean sampler?)")


def test_a_key_is_never_proposed_for_itself() -> None:
    with pytest.raises(ConfigCompositionException) as caught:
        compose(["backend=ome", "backend.gpus=1"])
    assert "did you mean backend.gpus?" not in explain(caught.value, ["backend=nope", "backend.gpus=1"])  # the defaults have it
