"""Classes by the names that a model_index.json gives them."""

from __future__ import annotations

import pytest

from runtimes.trusted_classes import component_class


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("diffusers", "UNet2DConditionModel"),
        ("transformers", "CLIPTextModel"),
        ("stable_diffusion", "StableDiffusionSafetyChecker"),
        ("wuerstchen", "PaellaVQModel"),  # as published folders of Stable Cascade name it
        ("diffusers", "PaellaVQModel"),  # as diffusers saves it
    ],
)
def test_classes_are_found(library: str, name: str) -> None:
    found = component_class(library, name)
    assert found is not None and found.__name__ == name


@pytest.mark.parametrize("library", ["wuerstchen", "diffusers"])
def test_a_retired_class_is_found_by_diffusers_own_loader_too(library: str) -> None:
    from diffusers.pipelines.pipeline_loading_utils import simple_get_class_obj

    assert simple_get_class_obj(library, "PaellaVQModel") is component_class(library, "PaellaVQModel")


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("diffusers", "NoSuchModel"),
        ("transformers", "NoSuchModel"),
        ("os", "PathLike"),
        ("diffusers.models", "AutoencoderKL"),
        ("deprecated", "sys"),
    ],
)
def test_other_names_are_not(library: str, name: str) -> None:
    assert component_class(library, name) is None


def test_a_class_that_transformers_has_renamed_is_found_as_diffusers_finds_it() -> None:
    import transformers

    assert component_class("transformers", "CLIPFeatureExtractor") is transformers.CLIPImageProcessor
