"""The architecture of the reference model: Stable Diffusion's own parts, made small.

Each function builds one part untrained; `tokenizer` and `scheduler` have nothing to train.
Importing this module imports torch, diffusers and transformers.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from bench.reference.shape_scenes import IMAGE_SIZE, all_captions

LATENT_CHANNELS = 4
LATENT_SIZE = IMAGE_SIZE // 4
TEXT_WIDTH = 128
MAX_TOKENS = 77
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"


def tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer, with a byte-pair vocabulary in which every word of a caption is one token.

    Trained, not hand-made: a word whose merges are missing falls into letters, and seven pieces of
    "triangle" once cost a model its last words. Unknown words still spell out in letters.
    """
    words = sorted({word for caption in all_captions() for word in caption.text.split()})
    merges = learn_merges(words)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    # CLIP's order: bytes, bytes that end a word, merges, specials.
    tokens = [*alphabet, *(byte + WORD_END for byte in alphabet), *(a + b for a, b in merges), START, END]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges), ""]
        (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(
            folder, model_max_length=MAX_TOKENS, unk_token=END, bos_token=START, eos_token=END, pad_token=END
        )


def learn_merges(words: Sequence[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until each (ASCII) word is one piece.

    Not tokenizers' BpeTrainer: it breaks ties differently from run to run, and two workers must not
    number the words differently.
    """
    split = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges: list[tuple[str, str]] = []
    while counts := Counter(pair for pieces in split for pair in itertools.pairwise(pieces)):
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        for pieces in split:
            for i in range(len(pieces) - 1, 0, -1):
                if tuple(pieces[i - 1 : i + 1]) == best:
                    pieces[i - 1 : i + 1] = ["".join(best)]
    return merges


def text_encoder(tokens: CLIPTokenizer) -> CLIPTextModel:
    """ids int64 [B, 77] -> hidden states float32 [B, 77, 128]."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokens),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=MAX_TOKENS,
            hidden_act="quick_gelu",
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokens.bos_token_id,
            eos_token_id=tokens.eos_token_id,
            pad_token_id=tokens.pad_token_id,
        )
    )


def vae() -> AutoencoderKL:
    """Pictures float32 [B, 3, 64, 64] in [-1, 1] <-> latents [B, 4, 16, 16]."""
    channels = (16, 32, 64)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(channels),
        up_block_types=("UpDecoderBlock2D",) * len(channels),
        block_out_channels=channels,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=16,
        sample_size=IMAGE_SIZE,
    )


def unet() -> UNet2DConditionModel:
    """Noisy latents [B, 4, 16, 16], timestep, text [B, 77, 128] -> v [B, 4, 16, 16]."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 128),
        layers_per_block=1,
        # diffusers' historical name: these are head counts, of 32 channels each.
        attention_head_dim=(1, 2, 4),
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=8,
    )


def scheduler() -> DDIMScheduler:
    """v-prediction with zero terminal signal-to-noise, trailing timesteps.

    Zero terminal SNR, since in a latent this small the usual schedule leaves the mean colour visible
    at the last timestep (https://arxiv.org/abs/2305.08891).
    """
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        # StableDiffusionPipeline insists on these two; trailing timesteps do not use the offset.
        clip_sample=False,
        steps_offset=1,
    )
