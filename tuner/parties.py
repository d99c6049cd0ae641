"""From the settings to the parties of a run: which backend, engine, GPUs and load generator they mean here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tuner import host
from tuner.backend_settings import DockerBackendSettings, LocalBackendSettings, ReplayBackendSettings
from tuner.backends import auto, docker_connection
from tuner.backends.base import Backend, Place
from tuner.backends.docker import Docker
from tuner.backends.local import Local
from tuner.backends.ome.asking import cluster_of
from tuner.backends.ome.backend import Ome
from tuner.backends.ome.catalogue import Runtime, model_label, read_model
from tuner.backends.ome.manifest import MANAGED_BY, STUDY, Lease, inference_service, unique_name
from tuner.backends.ome.preflight import Needs
from tuner.backends.ome.serving import on_claim
from tuner.benchmark.base import Benchmark
from tuner.benchmark.client import Client
from tuner.benchmark.genai_bench import GenaiBench
from tuner.benchmark.job import JobBench
from tuner.benchmark.job_manifest import Marks, ModelMount
from tuner.engine_settings import LlamaCppSettings, ReplaySettings
from tuner.engines.base import Engine
from tuner.engines.llamacpp import LlamaCpp
from tuner.engines.sglang import Sglang
from tuner.engines.vllm import Vllm
from tuner.errors import ConfigError, NotReadyError, TrialFailure
from tuner.explain import nearest
from tuner.feasibility import gate as feasibility
from tuner.feasibility import risk
from tuner.feasibility.gate import Gate
from tuner.feasibility.memory import GIB
from tuner.feasibility.rules import RULES
from tuner.gpus import Gpu, GpuSlots, discover, select
from tuner.kube.cluster import Cluster
from tuner.kube.resources import Object, inside
from tuner.launch import Value
from tuner.ome_settings import OmeBackendSettings
from tuner.owner import Owner
from tuner.parameters import Float
from tuner.prior.base import Prior
from tuner.prior.create import create as create_prior
from tuner.prior.create import traffic_of
from tuner.prior.knobs import engine_of
from tuner.prior.records import Earlier
from tuner.replay.backend import ReplayBackend
from tuner.replay.bench import ReplayBench
from tuner.replay.checks import check
from tuner.replay.engine import Replay
from tuner.search.knowledge import Knowledge
from tuner.settings import Settings
from tuner.space_settings import check_encodable

LISTED = 40
"""So many names are too many for a message."""


def decide(settings: Settings) -> Settings:
    """The settings `with_backend`, once it is known that the engine takes them.

    Raises:
        ConfigError: it does not, or not in the version that a runtime holds. Told first: what is mistyped is no matter of this host.
        NotReadyError: see `with_backend`.
    """
    check_parameters(settings, create_engine(settings))
    decided = with_backend(settings)
    if decided is not settings:
        check_parameters(decided, create_engine(decided))
    return decided


def with_backend(settings: Settings) -> Settings:
    """The settings with all decided that this host or the cluster decides: `backend=auto`, and what an OME runtime sets.

    Raises:
        ConfigError: the runtime's command line cannot be taken over.
        NotReadyError: this host cannot run the engine, or the cluster does not answer; names the cause and the fix.
    """
    if isinstance(settings.backend, OmeBackendSettings):
        return _with_runtime(settings, settings.backend)
    if settings.backend.name != "auto":
        return settings
    gpus = settings.backend.gpus
    if auto.resolve(settings.engine.name) == "docker":
        return settings.model_copy(update={"backend": DockerBackendSettings(name="docker", gpus=gpus)})
    return settings.model_copy(update={"backend": LocalBackendSettings(name="local", gpus=gpus)})


def _with_runtime(settings: Settings, backend: OmeBackendSettings) -> Settings:
    """The settings with the image of the runtime, which decides how flags are spelled, and its flags under the user's."""
    runtime = Runtime.read(cluster_of(backend), backend.runtime)
    engine = settings.engine.model_copy(update={"image": backend.image or runtime.image})
    settings = settings.model_copy(update={"engine": engine})
    if backend.runtime_args == "ignore" or not runtime.words:
        return settings
    inherited = create_engine(settings).read_flags(runtime.words)
    for name, value in inherited.items():
        if name in settings.space.parameters:
            check_encodable(f"backend.runtime: its {name}", settings.space.parameters[name], value)
    return settings.model_copy(update={"engine": engine.model_copy(update={"args": {**inherited, **engine.args}})})


def create_engine(settings: Settings) -> Engine:
    """The engine that `settings` name.

    Raises:
        ConfigError: what it needs is missing or wrong in the configuration.
        NotReadyError: where the Docker daemon is cannot be told.
    """
    if (settings.engine.name == "replay") != (settings.backend.name == "replay"):
        wrong, fix = ("backend", "engine") if settings.engine.name == "replay" else ("engine", "backend")
        name = getattr(settings, wrong).name
        raise ConfigError(f"{wrong}={name}: {fix}=replay replays a table, which needs {wrong}=replay too; set both or neither")
    if isinstance(settings.engine, ReplaySettings):
        return Replay(settings.engine, settings.space)
    docker = settings.backend if isinstance(settings.backend, DockerBackendSettings) else None
    ome = settings.backend if isinstance(settings.backend, OmeBackendSettings) else None
    if ome:
        for key, wanted in (("model", ome.model), ("runtime", ome.runtime)):
            if not wanted.name:
                lists = f"`kubectl get {wanted.kind.lower()}s`"
                raise ConfigError(f"backend.{key}.name: missing; backend=ome needs the name of a {wanted.kind}: {lists} lists them")
    if docker and settings.engine.image is None:
        raise ConfigError(f"engine.image: missing; backend=docker needs an image that holds {settings.engine.name}")
    if docker and docker.model_cache is None and settings.engine.name != "llamacpp" and docker_connection.elsewhere():
        raise ConfigError(
            "backend.model_cache: missing; the Docker daemon runs on another host: name the hub cache there, which holds the model"
        )
    match settings.engine:
        case LlamaCppSettings() as engine:
            return LlamaCpp(
                engine.model,
                engine.args,
                image=engine.image if docker else None,
                executable=engine.executable,
                tokenizer=engine.tokenizer,
                ready_timeout_s=engine.ready_timeout_s,
                model_path=ome.model_path if ome else None,
            )
        case engine:
            kind = Sglang if engine.name == "sglang" else Vllm
            return kind(
                engine.model,
                engine.args,
                image=engine.image if docker or ome else None,
                version=engine.version,
                executable=engine.executable,
                tokenizer=engine.tokenizer,
                model_cache=docker.model_cache if docker else None,
                ready_timeout_s=engine.ready_timeout_s,
                model_path=ome.model_path if ome else None,
            )


def check_parameters(settings: Settings, engine: Engine) -> None:
    """Refuses a space with parameters that the engine does not have, and what a table cannot answer: not one trial could be launched.

    Raises:
        ConfigError: names the first of them.
    """
    for name in settings.space.parameters:
        if engine.parameters is not None and name not in engine.parameters:
            known = sorted(engine.parameters)
            more = f"known: {', '.join(known)}" if len(known) < LISTED else "for another version of the engine name it: engine.version=..."
            raise ConfigError(f"space.{name}: {engine.name} has no such parameter{nearest(name, known)}; {more}")
    if isinstance(engine, Replay):
        check(settings, engine.table)


def find_gpus(settings: Settings) -> tuple[Gpu, ...] | None:
    """The GPUs of this host that deployments may use; none for an engine that needs none, None where they cannot be seen from here. For a
    replay those that its table was recorded on.

    Raises:
        NotReadyError: there is none, or not the one that `backend.gpus` names.
    """
    backend = settings.backend
    if settings.engine.name == "llamacpp":
        return ()
    if isinstance(settings.engine, ReplaySettings):
        gpu = settings.engine.gpu
        memory = 0 if gpu is None else round(gpu.memory_gib * GIB)
        return None if gpu is None else tuple(Gpu(i, f"recorded-{i}", gpu.name, memory, memory, (0, 0)) for i in range(gpu.count))
    if isinstance(backend, OmeBackendSettings | ReplayBackendSettings):
        return None
    if backend.gpus == ():
        return ()
    if backend.name == "docker" and docker_connection.elsewhere():
        return None
    if host.nvidia_device() is None:
        raise NotReadyError(
            f"backend={backend.name}: engine {settings.engine.name} needs an NVIDIA GPU and this host has none. Run it on a GPU host, use "
            "engine=llamacpp on the CPU, or, with a build of the engine for the CPU, backend.gpus=[]."
        )
    return select(backend.gpus, discover())


def create_backend(settings: Settings, gpus: Sequence[Gpu] | None, on_progress: Callable[[str], None]) -> Backend:
    """The backend that `settings` name.

    Args:
        settings: The experiment.
        gpus: What `find_gpus` found.
        on_progress: Is told, in a line, what takes long before the first trial.
    """
    backend = settings.backend
    if isinstance(settings.engine, ReplaySettings):
        return ReplayBackend(settings.engine)
    if isinstance(backend, OmeBackendSettings):
        return Ome(backend, lambda cluster: needs(settings, cluster), on_progress)
    if isinstance(backend, DockerBackendSettings):
        named = None if backend.gpus is None else [str(gpu) for gpu in backend.gpus]
        slots = GpuSlots(named if gpus is None else [gpu.uuid for gpu in gpus])
        return Docker(backend, slots, settings.engine.image, on_progress)
    return Local(GpuSlots([gpu.cuda_name for gpu in gpus or ()]))


def known_gpus(backend: Backend, found: Sequence[Gpu] | None) -> Sequence[Gpu] | None:
    """The GPUs that the feasibility gate may reckon with: those of this host, or what the cluster tells of its own; None where nothing is
    known.

    Args:
        backend: Checked.
        found: What `find_gpus` found.
    """
    if not isinstance(backend, Ome) or found is not None:
        return found
    capacity = backend.capacity
    if capacity.per_server is None or capacity.memory_bytes is None:
        return None
    # the largest there are: the gate refuses only what is certain
    name, memory = capacity.product or "GPU", capacity.memory_bytes
    return [Gpu(index, f"{name}-{index}", name, memory, memory, (0, 0)) for index in range(capacity.per_server)]


def create_gate(settings: Settings, engine: Engine, backend: Backend, gpus: Sequence[Gpu] | None) -> Gate:
    """The feasibility gate, of a replay that of the engine that was recorded.

    Args:
        settings: The experiment.
        engine: Prepared.
        backend: Checked.
        gpus: What `find_gpus` found.
    """
    name = settings.engine.replays or engine.name if isinstance(settings.engine, ReplaySettings) else engine.name
    return feasibility.create(name, engine.defaults, engine.model_folder, known_gpus(backend, gpus))


def gpus_needed(settings: Settings) -> tuple[int, int]:
    """GPUs of the smallest and of the largest configuration of the search space; `(0, 0)` where servers get none."""
    rules = RULES.get(settings.engine.name)
    if rules is None or getattr(settings.backend, "gpus", None) == ():
        return 0, 0
    factors = {rules.tp, rules.pp, rules.dp}
    smallest: dict[str, Value] = {}
    largest: dict[str, Value] = {}
    for name, parameter in settings.space.parameters.items():
        if not isinstance(parameter, Float) and rules.canonical({name: 1}).keys() <= factors:
            sizes = [value for value in parameter.values() if isinstance(value, int)]
            smallest[name], largest[name] = min(sizes, default=1), max(sizes, default=1)
    fixed = settings.engine.args
    return rules.gpus(rules.canonical(fixed, smallest)), rules.gpus(rules.canonical(fixed, largest))


def needs(settings: Settings, cluster: Cluster) -> Needs:
    """What the experiment asks of a cluster with OME."""
    fewest, most = gpus_needed(settings)
    return Needs(fewest, most, dry_run_manifest(settings, cluster), jobs=settings.benchmark.mode == "job")


def dry_run_manifest(settings: Settings, cluster: Cluster) -> Object | None:
    """The InferenceService of the engine's defaults, to be shown to the cluster without being made; None where there is none."""
    backend = settings.backend
    if not isinstance(backend, OmeBackendSettings):
        return None
    try:
        spec = create_engine(settings).launch({}, "dry-run")
        runtime = Runtime.read(cluster, backend.runtime)
        place, lease = Place(settings.study_name, 0, Path()), Lease.of(Owner.current().to_str(), backend.lease_s)
        return inference_service(unique_name(place), spec, backend, cluster.namespace, runtime, place, lease)
    except (TrialFailure, NotReadyError):
        return None  # the run, or another check, says why


def create_benchmark(settings: Settings, engine: Engine, backend: Backend) -> Benchmark:
    """The load generator that `settings` name.

    Args:
        settings: The experiment.
        engine: Prepared.
        backend: Checked.

    Raises:
        ConfigError: the Job would have no tokenizer.
        NotReadyError: the cluster does not say where the model is.
    """
    if isinstance(backend, ReplayBackend):
        return ReplayBench(backend)
    workload = settings.workload
    traffic = (workload.dataset, workload.prompt_column, workload.request_params)
    if settings.benchmark.mode != "job":
        return GenaiBench(engine.tokenizer, settings.benchmark.mode, None, *traffic)
    placed = settings.backend
    assert isinstance(placed, OmeBackendSettings), "the settings allow it with no other"
    assert isinstance(backend, Ome)
    owner, lease_s = Owner.current().to_str(), placed.lease_s

    def marks(seconds: float) -> Marks:
        return Marks(MANAGED_BY, {STUDY: settings.study_name, **Lease.of(owner, max(seconds, lease_s)).annotations})

    cluster = backend.cluster()
    model = read_model(cluster, placed.model)
    path = None if on_claim(model) else inside(model, "spec", "storage", "path")
    label = model_label(placed.model, cluster.namespace)
    mount = ModelMount(str(path), {label: "Ready"} if label else {}) if path else None
    return JobBench(cluster, settings.benchmark.job, Client(engine.tokenizer, None, *traffic), marks, mount)


def create_knowledge(settings: Settings, engine: Engine, gpus: Sequence[Gpu] | None, earlier: Sequence[Earlier] = ()) -> Knowledge:
    """What the sampler is told beforehand.

    Args:
        settings: The experiment.
        engine: Prepared.
        gpus: The GPUs that may be reckoned with; see `known_gpus`.
        earlier: Studies of the same engine, model and GPUs.
    """
    if settings.sampler.name != "ehvi":
        return Knowledge()
    from tuner.prior.earlier import EarlierStudies, known  # scipy takes a moment, which other samplers need not wait for

    name = engine.name
    if isinstance(settings.engine, ReplaySettings):
        name = settings.engine.replays or engine_of(settings.space.searched) or name
    traffic = traffic_of(settings.workload)
    tokens = None if traffic is None else traffic.input_tokens + traffic.output_tokens
    danger = risk.create(name, engine.defaults, engine.model_folder, gpus, tokens)
    prior: Prior | None = None
    if settings.sampler.prior == "auto":
        prior = create_prior(name, engine.defaults, engine.model_folder, gpus, settings.workload)
    if prior is None:
        others = [study for study in earlier if not study.alike]
        prior = EarlierStudies.create(settings, others, engine.defaults, lambda workload: None) if others else None
    return Knowledge(
        priors=() if prior is None else (prior,),
        gpus=engine.gpus,
        risk=None if danger is None else danger.of,
        known=known(settings, earlier, engine.defaults),
    )
