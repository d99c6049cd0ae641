"""`python -m tuner doctor` for an experiment on a cluster, as users run it where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.user import Run

pytestmark = pytest.mark.slow


@pytest.fixture
def away(run: Run, tmp_path: Path) -> Run:
    """A host that knows no cluster and no hub."""
    run.environment |= {"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "HF_TOKEN"):
        run.environment.pop(name, None)
    return run


def test_a_table_and_the_same_for_machines(away: Run) -> None:
    table, machines = (away.start("doctor", *options, "+experiment=llama1b_ome", quick=False) for options in ((), ("--json",)))

    output, _ = table.communicate(timeout=120)
    assert table.returncode == 3, output
    assert "Traceback" not in output
    assert "no cluster is configured" in output
    assert "Not ready: " in output

    output, _ = machines.communicate(timeout=120)
    told = json.loads(output)
    assert (machines.returncode, told["backend"], told["ready"]) == (3, "ome", False)
    verdicts = {finding["check"]: finding["verdict"] for finding in told["findings"]}
    assert (verdicts["cluster"], verdicts["gpus"], verdicts["configuration"], verdicts["storage"]) == ("failed", "skipped", "ok", "ok")
