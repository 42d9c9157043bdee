"""Textual inversions: a token more in the tokenizer, and its rows in the text encoder's table."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch._subclasses.fake_tensor import FakeTensorMode

from artifacts.errors import LatentcError
from artifacts.manifest import Embedding, ModelSpec
from compiler.capture import materialized
from compiler.capture.weightless_modules import bind, build
from compiler.source import open_model


@pytest.fixture
def inversion(sd15, tmp_path):
    """Two vectors for "<dog>", as trainers of diffusers write them."""
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(2))
    save_file({"<dog>": vectors}, tmp_path / "dog.safetensors")
    return tmp_path / "dog.safetensors", vectors


def spec(model, file, token: str = "") -> ModelSpec:
    return ModelSpec(model=str(model), embeddings=(Embedding(file=str(file), token=token),))


def test_the_text_encoder_answers_as_in_diffusers(sd15, inversion):
    from diffusers import StableDiffusionPipeline

    file, _ = inversion
    prompt = "a photo of <dog>"
    theirs = StableDiffusionPipeline.from_pretrained(sd15)
    theirs.load_textual_inversion(str(file))
    ours = materialized.load(spec(sd15, file), "diffusers:StableDiffusionPipeline").diffusers
    found, wanted = (
        pipe.encode_prompt(prompt, "cpu", 1, False)[0].detach().numpy() for pipe in (ours, theirs)
    )
    assert np.allclose(found, wanted, atol=1e-5)
    without = StableDiffusionPipeline.from_pretrained(sd15).encode_prompt(prompt, "cpu", 1, False)[0]
    assert not np.allclose(without.detach().numpy(), wanted, atol=1e-3)


def test_the_rest_of_the_table_stays(sd15, inversion):
    file, vectors = inversion
    plain = open_model(str(sd15)).component("text_encoder")
    component = open_model(spec(sd15, file, "<cat>")).component("text_encoder")
    tables = []
    for part in (plain, component):
        weights = bind(build(part, FakeTensorMode(allow_non_fake_inputs=True)), part)
        (name,) = (key for key in weights if key.endswith("token_embedding.weight"))
        tables.append(weights[name].read())
    start = component.rows[0].start
    assert np.array_equal(tables[1][start : start + 2], vectors.numpy())
    assert np.array_equal(tables[1][:start], tables[0][:start])


def test_an_embedding_of_another_width(sd15, tmp_path):
    save_file({"<dog>": torch.ones(1, 33)}, tmp_path / "wide.safetensors")
    with pytest.raises(LatentcError, match="is of width 33; .* of width 32"):
        open_model(spec(sd15, tmp_path / "wide.safetensors"))


def test_a_token_that_exists(sd15, inversion):
    with pytest.raises(LatentcError, match="the token '.*' exists"):
        vocabulary = materialized.load(ModelSpec(model=str(sd15)), "diffusers:StableDiffusionPipeline")
        known = next(iter(vocabulary.diffusers.tokenizer.get_vocab()))
        open_model(spec(sd15, inversion[0], known))
