"""Values taken apart and put together, and what their tensors are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.call_trees import AnyLeaf, ConstLeaf, ObjectNode, SizeLeaf, TensorLeaf
from compiler.capture.trees import (
    flatten_arguments,
    flatten_result,
    leaves,
    map_tensors,
    rebuild,
    with_leaf,
    with_number,
)

names = st.text("abc_0", min_size=1, max_size=3)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3)
    | st.builds(torch.full, st.just((2,)), st.floats(-5, 5)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(names, inner, max_size=3)
    ),
    max_leaves=12,
)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a is b
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(names, values, max_size=4))
def test_what_is_taken_apart_can_be_put_together(arguments):
    trees, flat = flatten_arguments("forward", arguments)
    assert same({name: rebuild(tree, flat.tensors) for name, tree in trees.items()}, arguments)
    assert [id(t) for t in flat.tensors.values()] == [id(t) for t in leaves(arguments)]
    result = flatten_result("forward", arguments, frozenset({"a", "out_a"}))
    assert same(rebuild(result.tree, result.tensors), arguments)
    assert not {"a", "out_a"} & result.tensors.keys()


@settings(deadline=None, max_examples=50)
@given(values)
def test_tensors_are_changed_in_place_of_themselves(value):
    doubled = map_tensors(value, lambda t: t * 2)
    assert same(map_tensors(value, lambda t: t), value)
    for old, new in zip(leaves(value), leaves(doubled), strict=True):
        assert torch.equal(new, old * 2)
    assert same(map_tensors(doubled, lambda t: None), map_tensors(value, lambda t: None))


def test_numbers_are_constants_with_a_path():
    trees, flat = flatten_arguments("forward", {"a": {"b": [1, 2.5]}, "flag": True, "text": "x"})
    assert flat.numbers == {("a", "b", 0): 1, ("a", "b", 1): 2.5}
    assert trees["flag"] == ConstLeaf(value=True)
    changed = with_number(flat.tree, ("a", "b", 1), "a_b_1")
    assert rebuild(changed, {"a_b_1": 7}) == {"a": {"b": [1, 7]}, "flag": True, "text": "x"}
    assert changed.items["a"].items["b"].items[1] == TensorLeaf(name="a_b_1", number=True)


def test_a_number_that_is_a_size_is_rebuilt_from_its_tensor():
    _, flat = flatten_arguments("decode", {"z": torch.ones(3, 5), "shape": (3, 5, 8)})
    tree = with_leaf(flat.tree, ("shape", 1), SizeLeaf(name="latent_sample", axis=1))
    assert rebuild(tree, {"latent_sample": torch.ones(2, 7)})["shape"] == (3, 7, 8)


def test_a_generator_is_passed_over():
    trees, flat = flatten_arguments("decode", {"z": torch.ones(1), "generator": torch.Generator()})
    assert trees["generator"] == AnyLeaf()
    assert rebuild(trees["generator"], flat.tensors) is None


# --- names ---------------------------------------------------------------------------------------


def named(method: str, **arguments: Any) -> list[str]:
    return list(flatten_arguments(method, arguments)[1].tensors)


def test_inputs_are_called_by_their_argument_and_a_vaes_as_optimum_does():
    one = torch.ones(1)
    assert named("forward", sample=one, added={"text_embeds": one, "time_ids": one}) == [
        "sample",
        "text_embeds",
        "time_ids",
    ]
    assert named("forward", residuals=[one, one]) == ["residuals_0", "residuals_1"]
    assert named("decode", z=one) == ["latent_sample"]
    assert named("encode", x=one) == ["sample"]
    assert named("forward", z=one, x=one) == ["z", "x"]


def test_a_name_is_given_once():
    one = torch.ones(1)
    assert named("forward", a={"x": one}, b={"x": one}) == ["x", "b_x"]
    assert len(set(named("forward", a={"x": one}, b={"x": one}, b_x=one))) == 3


def test_hidden_states_are_called_as_optimum_calls_them():
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    one = torch.ones(1)
    result = BaseModelOutputWithPooling(last_hidden_state=one, hidden_states=(one, one * 2))
    flat = flatten_result("forward", result, frozenset())
    assert list(flat.tensors) == ["last_hidden_state", "hidden_states.0", "hidden_states.1"]
    again = rebuild(flat.tree, flat.tensors)
    assert type(again) is type(result) and again.hidden_states[1] is result.hidden_states[1]
    assert again.pooler_output is None
    assert type(map_tensors(result, lambda t: t)) is type(result)


def test_a_vaes_distribution_is_its_parameters():
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    parameters = torch.randn(1, 8, 2, 2)
    result = AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(parameters))
    flat = flatten_result("encode", result, frozenset({"sample"}))
    assert list(flat.tensors) == ["latent_parameters"]
    assert isinstance(flat.tree, ObjectNode)
    again = rebuild(flat.tree, flat.tensors)
    assert torch.equal(again.latent_dist.mean, result.latent_dist.mean)


def test_a_result_with_an_inputs_name_is_out_of_it():
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

    result = UNet2DConditionOutput(sample=torch.ones(1))
    assert list(flatten_result("forward", result, frozenset({"sample"})).tensors) == ["out_sample"]
    assert list(flatten_result("decode", result, frozenset({"latent_sample"})).tensors) == ["sample"]


def test_a_plain_tensor_and_a_tuple_take_the_names_that_they_are_given():
    one = torch.ones(1)
    assert list(flatten_result("forward", one, frozenset()).tensors) == ["output"]
    assert list(flatten_result("forward", (one, [one]), frozenset()).tensors) == ["output.0", "output.1.0"]
    flat = flatten_result("forward", (one, [one * 2, {"k": 3}]), frozenset(), ["sample", "skip"])
    assert list(flat.tensors) == ["sample", "skip"]
    again = rebuild(flat.tree, flat.tensors)
    assert same(again, (flat.tensors["sample"], [flat.tensors["skip"], {"k": 3}]))


@pytest.mark.parametrize("value", [{1: torch.ones(1)}, object(), torch.float32])
def test_what_no_tree_can_hold_is_any(value):
    assert flatten_arguments("forward", {"a": value})[0]["a"] == AnyLeaf()


def test_complex_tensors_are_pairs_of_real_ones():
    z = torch.complex(torch.arange(3.0), torch.ones(3))
    arguments, flat = flatten_arguments("forward", {"z": z})
    assert flat.tensors["z"].shape == (3, 2) and not flat.tensors["z"].is_complex()
    assert torch.equal(rebuild(arguments["z"], flat.tensors), z)
