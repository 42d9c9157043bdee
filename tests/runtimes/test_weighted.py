"""Words with weights, by compel: on graphs what it is in PyTorch, and refused where it cannot be."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import DimRange
from runtimes.generation import Generator
from runtimes.weighted import Weighting
from tests.runtimes.conftest import Compiled

compel = pytest.importorskip("compel")

OPTIONS: dict[str, Any] = {"steps": 2, "size": (16, 16), "seed": 1, "output_type": "np"}


def draw(pipe: Generator, prompt: Any, **options: Any) -> np.ndarray:
    return np.asarray(pipe.generate(prompt, **{**OPTIONS, **options}).outputs["images"])


@pytest.mark.parametrize(
    ("prompt", "negative"), [("a red++ cat", None), ("a (red)0.5 cat", "dog"), ("a cat", "(dog)1.4")]
)
def test_pictures_are_those_of_compels_embeddings_in_pytorch(
    compiled: Compiled, prompt: str, negative: str | None
) -> None:
    pipe, reference = compiled.pipeline(), compiled.reference
    wrapper = compel.CompelForSD(reference)
    wrapper.compel.conditioning_provider.downweight_mode = compel.DownweightMode.REMOVE
    with torch.no_grad():
        made = wrapper([prompt], negative_prompt=[negative or ""])
        expected = reference(
            prompt_embeds=made.embeds,
            negative_prompt_embeds=made.negative_embeds,
            num_inference_steps=2,
            width=16,
            height=16,
            generator=torch.Generator().manual_seed(1),
            output_type="np",
        ).images
    weighted = draw(pipe, prompt, negative_prompt=negative, weighted=True)
    assert np.allclose(weighted, expected, atol=1e-5)
    # Weights are read, and not drawn as letters.
    assert not np.allclose(weighted, draw(pipe, prompt, negative_prompt=negative), atol=1e-3)


def test_words_without_weights_are_the_pipelines_own(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    assert np.allclose(draw(pipe, "a red cat", weighted=True), draw(pipe, "a red cat"), atol=1e-5)
    result = pipe.generate("a red cat", weighted=True, **OPTIONS)
    assert result.parameters["weighted"] is True and result.parameters["prompt"] == "a red cat"


def test_several_prompts_and_pictures(compiled: Compiled) -> None:
    pipe = compiled.pipeline()
    prompts = ["a red++ cat", "a dog"]
    both = draw(pipe, prompts, negative_prompt="ugly", weighted=True, images=2)
    assert len(both) == 4
    for number, prompt in enumerate(prompts):
        for at in range(2):
            alone = draw(pipe, prompt, negative_prompt="ugly", weighted=True, seed=1 + 2 * number + at)
            assert np.allclose(both[2 * number + at], alone[0], atol=1e-4)


def test_a_text_that_is_longer_than_the_artifacts_is_refused(compiled: Compiled) -> None:
    with pytest.raises(UsageError, match="compiled for texts of 16 tokens; the prompt takes 32") as caught:
        draw(compiled.pipeline(), "a red cat on a yellow mat", weighted=True)
    assert caught.value.hint == "Compile it for more: latentc compile MODEL OUT --tokens 16..32"


def test_what_compel_cannot_do_is_said(compiled: Compiled, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        components: ClassVar = {"text_encoder": compiled.reference.text_encoder}
        config: ClassVar = {}

        def __call__(self, prompt: str, prompt_embeds: Any = None) -> None: ...

        def encode_prompt(self, prompt: Any) -> torch.Tensor:
            return torch.ones(1, 3, 7)

    with pytest.raises(UsageError, match="compel cannot weigh .* Other's prompts.*CLIPTextModel"):
        Weighting(Other(), DimRange(min=1, max=9))
    with pytest.raises(UsageError, match="takes no embeddings"):
        Weighting(type("Plain", (), {"config": {}, "__call__": lambda self, prompt: None})(), None)
    monkeypatch.setattr("runtimes.weighted.find_spec", lambda name: None)
    with pytest.raises(LatentcError, match="need compel") as caught:
        draw(compiled.pipeline(), "a red++ cat", weighted=True)
    assert caught.value.hint == "Run: pip install 'latentc[weighted]'"
