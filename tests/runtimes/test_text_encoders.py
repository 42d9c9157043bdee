"""Text encoders and their tokenizers, by the names that diffusers gives them."""

from __future__ import annotations

from diffusers import StableDiffusion3Pipeline

from runtimes.text_encoders import encoders, pairs


def test_an_encoder_belongs_to_the_tokenizer_of_its_number() -> None:
    names = [
        "tokenizer_2",
        "text_encoder_2",
        "unet",
        "text_encoder",
        "tokenizer",
        "text_encoder_3",
        "my_text_encoder",
    ]
    assert list(encoders(names)) == ["text_encoder_2", "text_encoder", "text_encoder_3"]
    assert list(pairs(names)) == [("text_encoder_2", "tokenizer_2"), ("text_encoder", "tokenizer")]


def test_all_of_a_pipeline_of_diffusers_are_paired() -> None:
    names = StableDiffusion3Pipeline._get_signature_keys(StableDiffusion3Pipeline)[0]
    assert len(list(pairs(names))) == 3
