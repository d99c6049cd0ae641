"""Words and variables of a played container, without a cluster."""

from __future__ import annotations

import pytest

from tests.cluster.pod_network import expand, localized, new_address

KNOWN = {"MODEL_PATH": "/models/m", "A": "1"}


@pytest.mark.parametrize(
    ("word", "expanded"),
    [
        ("$(MODEL_PATH)", "/models/m"),
        ("--path=$(MODEL_PATH)/x", "--path=/models/m/x"),
        ("$(NOPE)", "$(NOPE)"),
        ("$$(A)", "$(A)"),
        ("$A $$ ${A}", "$A $ ${A}"),
        ("$(A)$(A)", "11"),
    ],
)
def test_variables_in_words(word: str, expanded: str) -> None:
    assert expand(word, KNOWN) == expanded


@pytest.mark.parametrize(
    ("word", "local"),
    [
        ("0.0.0.0", "127.9.9.9"),
        ("--host=0.0.0.0", "127.9.9.9"),
        ("10.0.0.0", "10.0.0.0"),
        ("http://t1-engine.tuner.svc.cluster.local:8080/v1", "http://127.1.1.1:8080/v1"),
        ("http://t1-engine.tuner.svc:8080", "http://127.1.1.1:8080"),
        ("http://other.tuner.svc.cluster.local:8080", "http://other.tuner.svc.cluster.local:8080"),
    ],
)
def test_addresses_in_words(word: str, local: str) -> None:
    def resolve(service: str, namespace: str) -> str | None:
        return "127.1.1.1" if (service, namespace) == ("t1-engine", "tuner") else None

    assert localized(word, "127.9.9.9", resolve).removeprefix("--host=") == local


def test_every_pod_has_an_address_of_its_own() -> None:
    addresses = [new_address() for _ in range(600)]
    assert len(set(addresses)) == 600
    for address in addresses:
        parts = [int(part) for part in address.split(".")]
        assert parts[0] == 127
        assert all(0 <= part <= 255 for part in parts)
