"""The vocabulary that is trained for the reference model."""

from __future__ import annotations

from bench.project.reference import models
from bench.reference.shape_scenes import all_captions


def test_every_word_of_every_caption_is_one_token() -> None:
    tokens = models.tokenizer()
    words = {word for caption in all_captions() for word in caption.text.split()}
    assert {word: tokens.tokenize(word) for word in words} == {word: [word + "</w>"] for word in words}


def test_training_the_vocabulary_is_reproducible() -> None:
    assert models.tokenizer().get_vocab() == models.tokenizer().get_vocab()


def test_a_caption_is_padded_to_clips_77_tokens_between_its_marks() -> None:
    tokens = models.tokenizer()
    ids = tokens("a large red circle", padding="max_length").input_ids
    assert len(ids) == 77
    assert ids[0] == tokens.bos_token_id
    assert set(ids[5:]) == {tokens.eos_token_id}
