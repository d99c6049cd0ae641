"""What of the start of a real API server can be tested without one. With KUBEBUILDER_ASSETS, all tests of the cluster run against it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.envtest import ASSETS, api_server_command, assets, etcd_command, kubeconfig


def test_nothing_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ASSETS, raising=False)
    assert assets() is None


def test_both_programs_are_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(ASSETS, str(tmp_path))
    (tmp_path / "etcd").touch()
    assert assets() is None
    (tmp_path / "kube-apiserver").touch()
    assert assets() == tmp_path


def test_everything_listens_on_loopback_alone(tmp_path: Path) -> None:
    words = etcd_command(tmp_path, tmp_path / "data", 1111, 2222) + api_server_command(tmp_path, tmp_path, 1111, 3333)
    listening = [word for word in words if word.startswith(("--listen", "--bind-address", "--advertise-address"))]
    assert len(listening) == 4
    assert all("127.0.0.1" in word for word in listening)
    assert f"--etcd-servers=http://127.0.0.1:{1111}" in words


def test_the_token_is_in_no_command_line(tmp_path: Path) -> None:
    assert f"--token-auth-file={tmp_path / 'tokens.csv'}" in api_server_command(tmp_path, tmp_path, 1, 2)


def test_kubeconfig_names_its_authority(tmp_path: Path) -> None:
    written = kubeconfig("https://127.0.0.1:1", "t", tmp_path / "ca.crt", "tuner")
    assert written["clusters"] == [
        {"name": "envtest", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority": str(tmp_path / "ca.crt")}}
    ]
    assert written["contexts"] == [{"name": "envtest", "context": {"cluster": "envtest", "user": "envtest", "namespace": "tuner"}}]
