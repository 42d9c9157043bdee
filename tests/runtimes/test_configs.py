from __future__ import annotations

import json
from typing import Any

import pytest

from artifacts.errors import LatentcError
from runtimes.configs import cleaned, is_class_entry, is_config, read_config

FILE = "unet/config.json"


def read(value: Any, verified: bool = True, file: str = FILE) -> dict[str, Any]:
    return read_config(json.dumps(value).encode(), file, verified)


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize(
    "key", ["_attn_implementation", "attn_implementation", "_experts_implementation_internal"]
)
@pytest.mark.parametrize(
    "kernel", ["someone/kernel@main:name", "flash_attention_2", "paged|sdpa", 3, ["eager"]]
)
@pytest.mark.parametrize("deep", [False, True])
def test_a_kernel_that_is_not_pytorchs_is_an_error(verified: bool, key: str, kernel: Any, deep: bool) -> None:
    value = {"text_config": [{key: kernel}]} if deep else {key: kernel}
    where = rf"'text_config\[0\]\.{key}'" if deep else f"'{key}'"
    with pytest.raises(LatentcError, match=rf"unet/config\.json: {where} is .*: an attention kernel"):
        read(value, verified)


@pytest.mark.parametrize("kernel", ["eager", "sdpa", None, {"": "eager", "text_config": "sdpa"}])
def test_pytorchs_own_kernels_are_left_to_whoever_builds_the_module(kernel: Any) -> None:
    assert read({"_attn_implementation": kernel, "width": 3}) == {"width": 3}


def test_a_kernel_for_one_part_is_an_error() -> None:
    with pytest.raises(LatentcError, match=r"'attn_implementation' is 'a/b'"):
        read({"attn_implementation": {"": "eager", "text_config": {"inner": "a/b"}}})


@pytest.mark.parametrize(
    ("value", "key"),
    [
        ({"auto_map": {"AutoModel": "model.Model"}}, "auto_map"),
        ({"image_processor": {"auto_map": {"AutoImageProcessor": "a--b.C"}}}, r"image_processor\.auto_map"),
        ({"text": "../outside"}, "text"),
        ({"text": "C:\\outside"}, "text"),
    ],
)
def test_code_and_paths_are_left_out_of_a_model_and_refused_in_an_artifact(value: Any, key: str) -> None:
    with pytest.raises(LatentcError, match=f"'{key}' is .*An artifact is data alone"):
        read(value)
    assert read(value, verified=False) in ({}, {"image_processor": {}})


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("key", ["backbone", "tokenizer", "audio_tokenizer_name_or_path"])
def test_another_model_is_an_error(verified: bool, key: str) -> None:
    with pytest.raises(LatentcError, match=f"'{key}' is 'gpt2': another model, which would be loaded"):
        read({key: "gpt2"}, verified)


def test_where_it_came_from_is_left_out_and_labels_stay() -> None:
    value = {
        "_name_or_path": "openai/clip-vit-large-patch14",
        "vocab_file": "/etc/hosts",
        "tokenizer_file": None,
        "init_inputs": ["/etc/hosts"],
        "id2label": {"0": "cat/dog"},
        "pad_token": "</s>",
    }
    assert read(value) == {"tokenizer_file": None, "id2label": {"0": "cat/dog"}, "pad_token": "</s>"}


def test_a_chat_template_may_hold_anything() -> None:
    value = {"chat_template": "{{ messages }}/\\"}
    assert read(value, file="tokenizer/tokenizer_config.json") == value


@pytest.mark.parametrize("name", ["pipelines", 3, None, ["UNet2DModel"]])
def test_a_class_name_that_is_none(name: Any) -> None:
    with pytest.raises(LatentcError, match="'_class_name' is"):
        read({"_class_name": name})


@pytest.mark.parametrize("name", ["UNet2DConditionModel", "AClassOfAnotherVersion"])
def test_a_class_name_stays(name: str) -> None:
    assert read({"_class_name": name}) == {"_class_name": name}


@pytest.mark.parametrize("data", [b'"text"', b"[]", b"3", b"", b"\xff", b'{"a": 1, "a": 2}', b"[" * 10**6])
def test_no_object(data: bytes) -> None:
    with pytest.raises(LatentcError, match=r"^unet/config\.json"):
        read_config(data, FILE, verified=True)


def test_nested_too_deep() -> None:
    value: Any = {}
    for _ in range(100):
        value = {"inner": value}
    with pytest.raises(LatentcError, match="nested too deep"):
        read(value)


@pytest.mark.parametrize("figure", [10**9 + 1, -(10**10), 2**60, 10**19])
def test_a_figure_that_nothing_has_is_named(figure: int) -> None:
    with pytest.raises(
        LatentcError, match=r"'text_config\.layers\[1\]' is -?\d+; such a figure is at most 1000000000"
    ):
        read({"text_config": {"layers": [2, figure]}})


def test_numbers_that_stand_for_no_limit_pass() -> None:
    value = {"model_max_length": int(1e30), "num_train_timesteps": 1000, "rope_theta": 1e12}
    assert read(value, file="tokenizer/tokenizer_config.json") == value
    with pytest.raises(LatentcError, match="'num_train_timesteps' is 1000; such a figure is at most 999"):
        cleaned(json.dumps(value).encode(), FILE, verified=True, largest=999)


def test_a_configuration_is_no_book(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtimes.configs.MAX_CONFIG", 100)
    with pytest.raises(LatentcError, match="a configuration has at most 100"):
        read({"text": "a" * 100})


def test_infinities_of_schedulers_pass() -> None:
    data = b'{"lambda_min_clipped": -Infinity}'
    assert cleaned(data, "scheduler/scheduler_config.json", verified=True) == data


def test_only_what_changes_is_written_anew() -> None:
    data = b'{"width":   3}'
    assert cleaned(data, FILE, verified=False) == data
    assert json.loads(cleaned(b'{"_name_or_path": "a", "width": 3}', FILE, verified=False)) == {"width": 3}


def test_settings_and_vocabularies() -> None:
    assert is_config("tokenizer/tokenizer_config.json")
    assert is_config("tokenizer/special_tokens_map.json")
    assert not is_config("tokenizer/vocab.json")
    assert not is_config("tokenizer/tokenizer.json")
    assert not is_config("tokenizer/config.txt")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["diffusers", "UNet2DConditionModel"], True),
        ([None, None], False),
        (["diffusers", None], False),
        (["diffusers"], False),
        (["diffusers", "a", "b"], False),
        ("ab", False),
        (None, False),
    ],
)
def test_which_values_of_an_index_name_a_class(value: Any, expected: bool) -> None:
    assert is_class_entry(value) is expected
