from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from artifacts.call_trees import (
    AnyLeaf,
    ComplexLeaf,
    ConstLeaf,
    MappingNode,
    ObjectNode,
    SequenceNode,
    SizeLeaf,
    TensorLeaf,
    Tree,
)
from artifacts.errors import LatentcError
from artifacts.manifest import DimRange, TensorSpec
from runtimes.torch_arrays import to_tensor
from runtimes.value_tree import (
    Mismatch,
    fit_dims,
    match,
    match_arguments,
    rebuild,
    to_array,
    wrong_size,
)

consts = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3)


@st.composite
def trees(draw: Any, depth: int = 3) -> tuple[Tree, Any]:
    """A tree, and a value of its form in which every tensor is its own leaf's number."""
    counter = iter(range(10**6))

    def build(level: int) -> tuple[Tree, Any]:
        kind = draw(st.sampled_from(["tensor", "const", "list", "tuple", "dict"][: 2 if level == 0 else 5]))
        if kind == "tensor":
            i = next(counter)
            return TensorLeaf(name=f"t{i}"), torch.full((2,), float(i))
        if kind == "const":
            value = draw(consts)
            return ConstLeaf(value=value), value
        if kind == "dict":
            built = {f"k{i}": build(level - 1) for i in range(draw(st.integers(0, 3)))}
            items = {k: t for k, (t, _) in built.items()}
            return MappingNode(kind="dict", items=items), {k: v for k, (_, v) in built.items()}
        parts = [build(level - 1) for _ in range(draw(st.integers(0, 3)))]
        values = [v for _, v in parts]
        node = SequenceNode(kind=kind, items=tuple(t for t, _ in parts))
        return node, values if kind == "list" else tuple(values)

    return build(depth)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@settings(max_examples=40)
@given(trees())
def test_a_value_taken_apart_and_rebuilt_is_the_same(case: tuple[Tree, Any]) -> None:
    tree, value = case
    found = match(tree, value)
    assert not isinstance(found, Mismatch)
    assert all(tensor[0] == int(name[1:]) for name, tensor in found.items())
    assert same(rebuild(tree, {n: t.numpy() for n, t in found.items()}), value)


@settings(max_examples=40)
@given(trees(), trees())
def test_a_value_of_another_form_does_not_match(one: tuple[Tree, Any], other: tuple[Tree, Any]) -> None:
    """What matches has the tree's own tensors, in the tree's own places; everything else is a mismatch."""
    tree, value = one[0], other[1]
    found = match(tree, value)
    if not isinstance(found, Mismatch):
        wanted = match(tree, one[1])
        assert not isinstance(wanted, Mismatch)
        assert found.keys() == wanted.keys()


@pytest.mark.parametrize(
    ("tree", "value", "message"),
    [
        (ConstLeaf(value=1), 2, "value: expected 1, found 2"),
        (ConstLeaf(value=True), 1, "value: expected True, found 1"),
        (ConstLeaf(value=1), True, "value: expected 1, found True"),
        (ConstLeaf(value=None), torch.zeros(2, 3), "value: expected None, found a tensor float32[2, 3]"),
        (
            SizeLeaf(name="a", axis=1),
            1.0,
            "value: expected the size of axis 1 of a, found 1.0",
        ),
        (TensorLeaf(name="a"), None, "value: expected a tensor, found None"),
        (TensorLeaf(name="a"), "text", "value: expected a tensor, found 'text'"),
        (
            SequenceNode(kind="list", items=(AnyLeaf(),)),
            (1, 2),
            "value: expected a list of 1, found a tuple of 2",
        ),
        (
            MappingNode(kind="dict", items={"a": SequenceNode(kind="tuple", items=(TensorLeaf(name="x"),))}),
            {"a": [None]},
            "value['a'][0]: expected a tensor, found None",
        ),
        (MappingNode(kind="dict", items={}), {"scale": 0.5}, "value['scale']: expected nothing, found 0.5"),
        (MappingNode(kind="dict", items={"a": AnyLeaf()}), 3, "value: expected a dict of ['a'], found 3"),
        (
            ObjectNode(kind="object", class_path="diffusers.models.unets.x:Output", items={}),
            {"a": 1},
            "value: expected a Output, found a dict of ['a']",
        ),
    ],
)
def test_mismatches_say_where_and_what(tree: Tree, value: Any, message: str) -> None:
    assert str(match(tree, value)) == message


def test_a_number_that_is_a_size_is_that_of_its_tensor() -> None:
    tree = MappingNode(items={"shape": SequenceNode(kind="tuple", items=(SizeLeaf(name="z", axis=0),))})
    assert match(tree, {"shape": (3,)}) == {}
    assert wrong_size(tree, {"shape": (3,)}, {"z": (3, 8)}, "call") is None
    wrong = wrong_size(tree, {"shape": (2,)}, {"z": (3, 8)}, "call")
    assert str(wrong) == "call['shape'][0]: expected 3, the size of axis 0 of z, found 2"
    assert wrong_size(tree, {"shape": (2,)}, {}, "call") is not None


def test_what_stands_for_the_same() -> None:
    assert match(ConstLeaf(value=1), 1.0) == {}
    assert match(ConstLeaf(value=0.5), np.float64(0.5)) == {}
    assert match(ConstLeaf(value=3), np.int64(3)) == {}
    assert match(SequenceNode(kind="list", items=()), ()) == {}
    assert match(MappingNode(kind="dict", items={"a": ConstLeaf(value=None)}), {}) == {}
    assert match(MappingNode(kind="dict", items={}), {"a": None}) == {}
    assert match(AnyLeaf(), object()) == {}
    assert match(TensorLeaf(name="t", number=True), 3) == {"t": 3}


def test_arguments_of_a_newer_and_of_an_older_library() -> None:
    arguments: dict[str, Tree] = {"x": TensorLeaf(name="x"), "gone": ConstLeaf(value=None)}
    assert match_arguments(arguments, {"x": 1, "new": 2}, {"new": 2}) == {"x": 1}
    found = match_arguments(arguments, {"x": 1, "new": 3}, {"new": 2})
    assert str(found) == "new: expected nothing: the compiled graph has no such argument, found 3"
    arguments["gone"] = ConstLeaf(value=7)
    assert str(match_arguments(arguments, {"x": 1}, {})) == "gone: expected 7, found None"


def test_objects_are_taken_apart_and_rebuilt() -> None:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
    from diffusers.models.modeling_outputs import AutoencoderKLOutput

    path = "diffusers.models.autoencoders.vae:DiagonalGaussianDistribution"
    inner = ObjectNode(kind="object", class_path=path, items={"parameters": TensorLeaf(name="p")})
    outer = "diffusers.models.modeling_outputs:AutoencoderKLOutput"
    tree = ObjectNode(kind="object", class_path=outer, items={"latent_dist": inner})
    array = np.ones((1, 8, 2, 2), np.float32)
    built = rebuild(tree, {"p": array})
    assert type(built) is AutoencoderKLOutput
    assert type(built.latent_dist) is DiagonalGaussianDistribution
    assert built.latent_dist.mean.shape == (1, 4, 2, 2)
    found = match(tree, built)
    assert not isinstance(found, Mismatch)
    assert np.shares_memory(found["p"].numpy(), array)


@pytest.mark.parametrize(
    ("class_path", "items", "message"),
    [
        ("os:PathLike", {}, "only classes of diffusers and transformers"),
        ("diffusersx:Thing", {}, "only classes of diffusers and transformers"),
        ("diffusers:utils.logging.os.system", {}, "only classes of diffusers and transformers"),
        ("diffusers:DiffusionPipeline.from_pretrained", {}, "only classes of diffusers and transformers"),
        ("diffusers:logging", {}, "is not a class"),
        ("diffusers:NoSuchClass", {}, "does not have"),
        ("diffusers.no_such_module:Thing", {}, "does not have"),
        (
            "transformers:PreTrainedTokenizerFast",
            {"tokenizer_file": ConstLeaf(value="x")},
            "not an output class",
        ),
        ("transformers:TrainingArguments", {}, "not an output class"),
        (
            "diffusers.models.autoencoders.vae:DiagonalGaussianDistribution",
            {"parameters": SequenceNode(kind="list", items=(ConstLeaf(value="text"),))},
            "not an output class",
        ),
        ("diffusers.models.modeling_outputs:AutoencoderKLOutput", {"x": AnyLeaf()}, "is not built from x"),
    ],
)
def test_only_outputs_of_trusted_libraries_are_built(
    class_path: str, items: dict[str, Tree], message: str
) -> None:
    with pytest.raises(LatentcError, match=message):
        rebuild(ObjectNode(kind="object", class_path=class_path, items=items), {})


spec = TensorSpec(name="x", dtype="float32", shape=("a", 2))


def test_arrays_share_the_tensors_memory() -> None:
    tensor = torch.zeros(3, 2)
    array = to_array(tensor, spec, "x")
    assert isinstance(array, np.ndarray)
    assert np.shares_memory(array, tensor.numpy())
    back = to_tensor(array)
    back[0, 0] = 5
    assert tensor[0, 0] == 5


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64", "int64", "int32", "uint8", "bool"])
def test_tensors_are_cast_to_the_spec(dtype: str) -> None:
    tensor = torch.tensor([[0.0, 1.0]])
    found = to_array(tensor, TensorSpec(name="x", dtype=dtype, shape=(1, 2)), "x")
    assert isinstance(found, np.ndarray)
    assert found.dtype.name == dtype
    assert to_tensor(found).float().tolist() == tensor.tolist()
    number = to_array(1, TensorSpec(name="x", dtype=dtype, shape=()), "x")
    assert isinstance(number, np.ndarray)
    assert (number.dtype.name, number.shape, float(number)) == (dtype, (), 1)


@pytest.mark.parametrize("value", [0.5, np.float32(0.5), torch.tensor(0.5), float("nan")])
def test_fractions_are_not_rounded_to_integers(value: Any) -> None:
    found = to_array(value, TensorSpec(name="t", dtype="int64", shape=()), "timestep")
    assert isinstance(found, Mismatch)
    assert str(found).startswith("timestep: expected int64: whole numbers, found float")


def test_one_element_takes_the_rank_of_its_spec_and_nothing_else_does() -> None:
    one = TensorSpec(name="t", dtype="int64", shape=(1,))
    for value in (7, torch.tensor(7), torch.tensor([[7]])):
        found = to_array(value, one, "t")
        assert isinstance(found, np.ndarray)
        assert found.tolist() == [7]
    found = to_array(torch.zeros(2), spec, "x")
    assert str(found) == "x: expected shape [a, 2], found shape [2]"
    assert str(to_array(torch.zeros(1, 2, device="meta"), spec, "x")).endswith("a tensor on the meta device")


@settings(max_examples=40)
@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)))
def test_any_shape_survives(array: np.ndarray) -> None:
    shape: tuple[int | str, ...] = tuple(f"d{i}" for i in range(array.ndim))
    found = to_array(to_tensor(array), TensorSpec(name="x", dtype="float32", shape=shape), "x")
    assert isinstance(found, np.ndarray)
    assert found.shape == array.shape
    assert np.array_equal(found, array, equal_nan=True)


def test_dimensions_agree_and_stay_in_their_ranges() -> None:
    specs = [
        TensorSpec(name="x", dtype="float32", shape=("batch", 4)),
        TensorSpec(name="y", dtype="float32", shape=("batch",)),
    ]
    dims = {"batch": DimRange(min=1, max=2)}

    def fit(x: tuple[int, ...], y: tuple[int, ...]) -> Any:
        return fit_dims(specs, {"x": np.zeros(x), "y": np.zeros(y)}, dims)

    assert fit((2, 4), (2,)) == {"batch": 2}
    assert str(fit((3, 4), (3,))) == "x: expected shape [batch 1..2, 4], found shape [3, 4] (axis 0)"
    assert str(fit((2, 5), (2,))) == "x: expected shape [batch 1..2, 4], found shape [2, 5] (axis 1)"
    assert "with batch = 2 as in the other inputs, found shape [1] (axis 0)" in str(fit((2, 4), (1,)))
    assert fit_dims(specs[1:], {"y": np.zeros(99)}, {}) == {"batch": 99}
    dims = {"batch": DimRange(min=2, max=6, step=2)}
    assert fit((4, 4), (4,)) == {"batch": 4}
    assert "expected shape [batch 2..6 in steps of 2, 4], found shape [3, 4]" in str(fit((3, 4), (3,)))


def test_complex_tensors_are_pairs_of_real_numbers() -> None:
    z = torch.complex(torch.arange(3.0), -torch.arange(3.0))
    tree = ComplexLeaf(name="z")
    for value in (z, z.numpy()):
        found = match(tree, value)
        assert not isinstance(found, Mismatch)
        array = np.asarray(found["z"])
        assert array.shape == (3, 2) and array.dtype == np.float32
        assert torch.equal(rebuild(tree, {"z": array}), z)
    assert isinstance(match(tree, torch.zeros(3)), Mismatch)
