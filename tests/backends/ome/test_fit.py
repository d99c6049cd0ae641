from __future__ import annotations

from typing import Any

import pytest

from tests.backends.ome.prepared import model, runtime
from tuner.backends.ome.fit import Fit, judge, parameters


def judged(spec: dict[str, Any], supported: dict[str, Any] | None = None, **more: Any) -> Fit:
    """The prepared model and runtime with these changes."""
    served, serves = model(), runtime()
    served["spec"] |= spec
    serves["spec"]["supportedModelFormats"][0] |= supported or {}
    serves["spec"] |= more
    return judge(served, serves)


def test_a_pair_of_the_catalogue_fits() -> None:
    assert judged({}) == Fit()


@pytest.mark.parametrize(
    ("spec", "supported", "against"),
    [
        ({"modelArchitecture": "GemmaForCausalLM"}, {}, "architecture LlamaForCausalLM, the model has GemmaForCausalLM"),
        ({"quantization": "int4"}, {"quantization": "fp8"}, "quantization fp8, the model has int4"),
        ({"modelFormat": {"name": "gguf"}}, {}, "format safetensors, the model has gguf"),
        ({"modelFramework": {"name": "fastertransformer"}}, {}, "framework transformers, the model has fastertransformer"),
        (
            {"modelFramework": {"name": "transformers", "version": "4.43.0"}},
            {"modelFramework": {"name": "transformers", "version": "4.51.0"}},
            "framework transformers 4.51.0, the model has 4.43.0",
        ),
        ({"modelParameterSize": "70B"}, {}, "models of 2B parameters and less, the model has 70B"),
        ({"modelParameterSize": "135M"}, {}, "models of 500M parameters and more, the model has 135M"),
    ],
)
def test_what_certainly_does_not_fit(spec: dict[str, Any], supported: dict[str, Any], against: str) -> None:
    assert judged(spec, supported) == Fit(against=against)


@pytest.mark.parametrize(
    ("spec", "supported"),
    [
        ({"quantization": "fp8"}, {}),
        ({"modelArchitecture": None}, {}),
        ({"modelFormat": {"name": "safetensors"}}, {}),
        ({"modelFormat": None}, {}),
        ({"modelFramework": {"name": "transformers", "version": "of today"}}, {}),
        # the same release, but OME compares development versions as a whole
        ({"modelFramework": {"name": "transformers", "version": "4.45.0"}}, {}),
        (
            {"modelFramework": {"name": "transformers", "version": "4.40.0"}},
            {"modelFramework": {"name": "transformers", "version": "4.43.0", "operator": "GreaterThanOrEqual"}},
        ),
    ],
)
def test_what_may_not_fit(spec: dict[str, Any], supported: dict[str, Any]) -> None:
    fit = judged(spec, supported)
    assert fit.doubt
    assert not fit.against


def test_what_a_newer_model_may_have() -> None:
    newer = {"modelFramework": {"name": "transformers", "version": "4.51.0"}}
    assert judged(newer, {"modelFramework": {"name": "transformers", "version": "4.43.0", "operator": "GreaterThan"}}) == Fit()


def test_one_fitting_entry_is_enough() -> None:
    other = {**runtime()["spec"]["supportedModelFormats"][0], "modelArchitecture": "Other"}
    fitting = runtime()["spec"]["supportedModelFormats"][0]
    assert judged({}, supportedModelFormats=[other, fitting]) == Fit()
    assert judged({}, supportedModelFormats=[other, {**other, "modelArchitecture": "Another"}]).against == (
        "architecture Other, the model has LlamaForCausalLM; or architecture Another, the model has LlamaForCausalLM"
    )
    assert judged({}, supportedModelFormats=[]).doubt


def test_sizes_that_nobody_can_read_are_no_reason() -> None:
    assert judged({"modelParameterSize": "small"}) == judged({"modelParameterSize": None}) == Fit()
    assert judged({}, modelSizeRange={"min": "500M"}) == judged({}, modelSizeRange={}) == Fit()


@pytest.mark.parametrize(
    ("text", "number"), [("500M", 5e8), ("1.24B", 1.24e9), ("1T", 1e12), ("7000", 7e3), ("", None), (None, None), ("xB", None)]
)
def test_parameters(text: str | None, number: float | None) -> None:
    assert parameters(text) == number
