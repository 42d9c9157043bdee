"""Tokenizers trained on a page of captions, and the smallest text encoders that their pipelines accept."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.sweep.weights import seeded

_COLOURS = "red green blue yellow white black orange purple".split()
_SHAPES = "circle square triangle star".split()
_PLACES = ("at the left", "at the right", "at the top", "in the middle")
_CHAT = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
CAPTIONS = [
    f"a {size} {colour} {shape} {place} on a {ground} background"
    for size in ("large", "small")
    for colour in _COLOURS
    for shape in _SHAPES
    for place in _PLACES
    for ground in _COLOURS
]
VOCABULARY = 640

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{{ message['content'][0]['text'] }}{% endif %}{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _corpus() -> list[str]:
    template = _CHAT.replace("<|im_start|>", "").replace("<|im_end|>", "")
    return CAPTIONS + [template.format(caption) for caption in CAPTIONS[::16]] * 4


@cache
def _merges(kind: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-pair encoding; words are cut as the tokenizer class `kind` cuts."""
    import json

    import transformers
    from tokenizers import pre_tokenizers, trainers

    blank = getattr(transformers, kind)()
    special = {
        "CLIPTokenizer": ["<|startoftext|>", "<|endoftext|>"],
        "Qwen2Tokenizer": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        "GemmaTokenizer": [
            "<pad>",
            "<eos>",
            "<bos>",
            "<unk>",
            "<mask>",
            *(f"<0x{i:02X}>" for i in range(256)),
        ],
    }[kind]
    tokenizer = blank.backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=[] if kind == "GemmaTokenizer" else pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        **({"end_of_word_suffix": "</w>"} if kind == "CLIPTokenizer" else {}),
    )
    corpus = _corpus()
    if kind == "GemmaTokenizer":  # it merges across spaces; words keep this small one readable
        corpus = [word for text in corpus for word in text.replace(" ", " \0").split("\0")]
    tokenizer.train_from_iterator(corpus, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def clip_tokenizer(pad_token: str = "<|endoftext|>") -> Any:
    """CLIP's tokenizer, 77 tokens."""
    from transformers import CLIPTokenizer

    vocab, merges = _merges("CLIPTokenizer")
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77, pad_token=pad_token)


def qwen_tokenizer(model_max_length: int = 1024) -> Any:
    """Qwen 2's tokenizer, with a chat template."""
    from transformers import Qwen2Tokenizer

    vocab, merges = _merges("Qwen2Tokenizer")
    return Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        model_max_length=model_max_length,
        chat_template=CHAT_TEMPLATE,
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def gemma_tokenizer() -> Any:
    """Gemma's tokenizer (pads on the left unless its pipeline says otherwise)."""
    from transformers import GemmaTokenizer

    vocab, merges = _merges("GemmaTokenizer")
    return GemmaTokenizer(vocab=vocab, merges=merges, model_max_length=256)


@cache
def _pieces() -> tuple[tuple[str, float], ...]:
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    import json

    return tuple((piece, score) for piece, score in json.loads(tokenizer.to_str())["model"]["vocab"])


def t5_tokenizer(model_max_length: int = 32) -> Any:
    """T5's tokenizer, without sentinels."""
    from transformers import T5Tokenizer

    return T5Tokenizer(vocab=list(_pieces()), extra_ids=0, model_max_length=model_max_length)


def bert_tokenizer() -> Any:
    """BERT's tokenizer: one token a word of the captions."""
    from transformers import BertTokenizer

    words = sorted({word for caption in CAPTIONS for word in caption.split()})
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *"abcdefghijklmnopqrstuvwxyz", ","]
    return BertTokenizer(vocab={word: i for i, word in enumerate(dict.fromkeys(vocab))}, model_max_length=77)


def clip_text(hidden: int = 32, projection: int | None = None, layers: int = 2, seed: int = 0) -> Any:
    """CLIPTextModel, or CLIPTextModelWithProjection when `projection` is its width."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=projection or hidden,
        hidden_act="gelu" if projection else "quick_gelu",
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    model = CLIPTextModelWithProjection if projection else CLIPTextModel
    return seeded(model, config, seed=seed)


def clip_vision(hidden: int = 32, projection: int = 32, seed: int = 0) -> Any:
    """CLIPVisionModelWithProjection for 32x32 images."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        projection_dim=projection,
    )
    return seeded(CLIPVisionModelWithProjection, config, seed=seed)


def clip_images() -> Any:
    """The image processor of `clip_vision`."""
    from transformers import CLIPImageProcessorPil

    return CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})


def t5(hidden: int = 32, seed: int = 0) -> Any:
    """T5EncoderModel, gated GELU as in v1.1."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=hidden,
        d_kv=8,
        d_ff=2 * hidden,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
    )
    return seeded(T5EncoderModel, config, seed=seed)


def umt5(hidden: int = 32, seed: int = 0) -> Any:
    """UMT5EncoderModel."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(
        vocab_size=VOCABULARY,
        d_model=hidden,
        d_kv=8,
        d_ff=2 * hidden,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
    )
    return seeded(UMT5EncoderModel, config, seed=seed)


def gemma2(hidden: int = 32, seed: int = 0) -> Any:
    """Gemma2Model: grouped queries, soft caps, a sliding window in every other layer."""
    from transformers import Gemma2Config, Gemma2Model

    config = Gemma2Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        query_pre_attn_scalar=8,
        sliding_window=16,
    )
    return seeded(Gemma2Model, config, seed=seed)


def gemma(hidden: int = 32, seed: int = 0) -> Any:
    """GemmaModel."""
    from transformers import GemmaConfig, GemmaModel

    config = GemmaConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    return seeded(GemmaModel, config, seed=seed)


def glm(hidden: int = 32, seed: int = 0) -> Any:
    """GlmModel: rotary embeddings over half of a head."""
    from transformers import GlmConfig, GlmModel

    config = GlmConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        attention_dropout=0.0,
        pad_token_id=0,
        bos_token_id=0,
        eos_token_id=0,
    )
    return seeded(GlmModel, config, seed=seed)


def qwen25_vl(hidden: int = 32, seed: int = 0) -> Any:
    """Qwen2_5_VLForConditionalGeneration; its vision tower is as small as the class allows."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [1, 1, 2],
            },
            "bos_token_id": 0,
            "eos_token_id": 0,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": hidden,
            "fullatt_block_indexes": [0],
        },
        image_token_id=VOCABULARY - 1,
        video_token_id=VOCABULARY - 2,
        vision_start_token_id=VOCABULARY - 3,
        vision_end_token_id=VOCABULARY - 4,
    )
    return seeded(Qwen2_5_VLForConditionalGeneration, config, seed=seed)


def qwen3(hidden: int = 32, layers: int = 3, seed: int = 0) -> Any:
    """Qwen3ForCausalLM."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=2048,
        bos_token_id=0,
        eos_token_id=0,
    )
    return seeded(Qwen3ForCausalLM, config, seed=seed)


def bert(hidden: int = 32, seed: int = 0) -> Any:
    """BertModel."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return seeded(BertModel, config, seed=seed)
