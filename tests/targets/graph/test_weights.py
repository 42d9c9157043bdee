"""Weights that stay on disk: chains of steps, what cancels, what is the same, and that nothing is read before time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from artifacts.errors import LatentcError
from artifacts.progress import silent
from targets.graph.finite import all_finite
from targets.graph.weights import Cast, Joined, Merge, Reshape, Slice, Stored, Transpose, WeightRef
from tests.compiler.passes.graphs import bind, parse

FLOAT, HALF, BFLOAT, DOUBLE = (
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
    ir.DataType.DOUBLE,
)


def stored(folder: Path, array: np.ndarray, dtype: ir.DataType = FLOAT, key: str = "w") -> Stored:
    """`array` in a file, behind eight bytes that are none of its."""
    file = folder / f"{key}.bin"
    data = array.astype(dtype.numpy())
    file.write_bytes(b"notours!" + data.tobytes())
    return Stored(file, key, dtype, data.shape, 8, data.nbytes)


@pytest.fixture
def array() -> np.ndarray:
    return np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 8


def test_it_is_what_is_stored(tmp_path, array):
    ref = WeightRef(stored(tmp_path, array), name="module.w")
    assert (ref.name, ref.key, ref.dtype, tuple(ref.shape.numpy())) == ("module.w", "w", FLOAT, (2, 3, 4))
    assert ref.nbytes == 96
    np.testing.assert_array_equal(ref.numpy(), array)
    assert ref.tobytes() == array.tobytes()


def test_steps_are_taken_in_order(tmp_path, array):
    ref = WeightRef(stored(tmp_path, array)).then(
        Transpose((2, 0, 1)), Reshape((4, 6)), Slice(1, 1, 5), Cast(HALF)
    )
    expected = array.transpose(2, 0, 1).reshape(4, 6)[:, 1:5].astype(np.float16)
    assert (tuple(ref.shape.numpy()), ref.dtype) == ((4, 4), HALF)
    assert ref.numpy().dtype == np.float16
    np.testing.assert_array_equal(ref.numpy(), expected)
    assert ref.tobytes() == expected.tobytes()  # contiguous, whatever views the steps made


@settings(deadline=None, max_examples=40)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=3).map(tuple),
    steps=st.lists(st.sampled_from(["transpose", "reshape", "slice", "half", "float"]), max_size=6),
)
def test_any_chain_says_the_shape_and_type_that_it_gives(tmp_path_factory, shape, steps):
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    ref = WeightRef(stored(tmp_path_factory.mktemp("w"), array))
    for step in steps:
        now = tuple(ref.shape.numpy())
        ref = ref.then(
            {
                "transpose": lambda now=now: Transpose(tuple(reversed(range(len(now))))),
                "reshape": lambda now=now: Reshape((1, int(np.prod(now)))),
                "slice": lambda now=now: Slice(len(now) - 1, now[-1] // 2, now[-1]),
                "half": lambda: Cast(HALF),
                "float": lambda: Cast(FLOAT),
            }[step]()
        )
    found = ref.numpy()
    assert found.shape == tuple(ref.shape.numpy())
    assert found.dtype == ref.dtype.numpy()
    assert ref.nbytes == found.nbytes == len(ref.tobytes())


@pytest.mark.parametrize("narrow", [HALF, BFLOAT])
def test_a_cast_that_lost_nothing_is_undone(tmp_path, array, narrow):
    ref = WeightRef(stored(tmp_path, array, narrow)).then(Cast(FLOAT), Cast(narrow))
    assert ref.transforms == (Cast(narrow),)
    assert ref.then(Cast(FLOAT)).transforms == (Cast(narrow), Cast(FLOAT))
    np.testing.assert_array_equal(ref.numpy(), array.astype(narrow.numpy()))


def test_a_cast_that_rounded_stays(tmp_path):
    third = np.full(3, 1 / 3, np.float32)
    ref = WeightRef(stored(tmp_path, third)).then(Cast(HALF), Cast(FLOAT))
    assert ref.transforms == (Cast(HALF), Cast(FLOAT))
    np.testing.assert_array_equal(ref.numpy(), third.astype(np.float16).astype(np.float32))


def test_casts_cancel_across_what_only_moves_elements(tmp_path, array):
    ref = WeightRef(stored(tmp_path, array, HALF)).then(Cast(FLOAT), Transpose((2, 1, 0)), Cast(HALF))
    assert ref.transforms == (Transpose((2, 1, 0)), Cast(HALF))
    np.testing.assert_array_equal(ref.numpy(), array.astype(np.float16).T)


def test_neighbours_are_added_up_before_rounding(tmp_path, array):
    ref = WeightRef(stored(tmp_path, array / 3)).then(
        Cast(FLOAT), Merge(((1, (1, 2)), (2, (3, 1)))), Cast(HALF)
    )
    whole = (array / 3).astype(np.float32)
    rows = np.stack([whole[:, 0], whole[:, 1] + whole[:, 2]], 1)
    both = np.stack([rows[..., :3].sum(-1), rows[..., 3]], -1)
    assert (tuple(ref.shape.numpy()), ref.dtype) == ((2, 2, 2), HALF)
    np.testing.assert_array_equal(ref.numpy(), both.astype(np.float16))


def test_merged_neighbours_of_16_bits_stay_in_32_until_they_are_cast(tmp_path, array):
    ref = WeightRef(stored(tmp_path, array, HALF)).then(Cast(FLOAT), Merge(((1, (3,)),)))
    assert ref.dtype == FLOAT
    narrow = ref.then(Cast(HALF))
    assert narrow.transforms == (Cast(FLOAT), Merge(((1, (3,)),)), Cast(HALF))


def test_what_does_not_add_up_to_the_axis_is_refused(tmp_path, array):
    with pytest.raises(ValueError, match="axis 1"):
        WeightRef(stored(tmp_path, array)).then(Merge(((1, (1, 1)),)))


def test_bfloat16_is_rounded_to_even(tmp_path):
    ref = WeightRef(stored(tmp_path, np.array([1 + 2**-8, 1 + 3 * 2**-8], np.float32))).then(Cast(BFLOAT))
    assert ref.numpy().astype(np.float32).tolist() == [1.0, 1 + 2**-6]


def test_joined_weights_are_one(tmp_path, array):
    parts = tuple(
        WeightRef(stored(tmp_path, array[i], key=key)).then(Transpose((1, 0))) for i, key in enumerate("ab")
    )
    ref = WeightRef(Joined(parts, 1)).then(Cast(HALF))
    assert (ref.key, tuple(ref.shape.numpy()), ref.dtype) == ("a+b", (4, 6), HALF)
    np.testing.assert_array_equal(ref.numpy(), np.concatenate([array[0].T, array[1].T], 1).astype(np.float16))


def test_equal_weights_have_equal_identities(tmp_path, array):
    a, b = stored(tmp_path, array, key="a"), stored(tmp_path, array, key="b")
    assert WeightRef(a, name="x").identity == WeightRef(a, name="y").identity
    assert WeightRef(a, name="x").then(Cast(HALF)).identity == WeightRef(a, (Cast(HALF),)).identity
    ones = (
        WeightRef(a),
        WeightRef(b),
        WeightRef(a).then(Cast(HALF)),
        WeightRef(a).then(Reshape((24,))),
        WeightRef(Joined((WeightRef(a), WeightRef(b)), 0)),
        WeightRef(Joined((WeightRef(a), WeightRef(b)), 1)),
        WeightRef(Joined((WeightRef(b), WeightRef(a)), 0)),
    )
    assert len({ref.identity for ref in ones}) == len(ones)


def test_a_reshape_keeps_the_number_of_elements(tmp_path, array):
    with pytest.raises(ValueError, match=r"cannot reshape \(2, 3, 4\) to \(5, 5\)"):
        WeightRef(stored(tmp_path, array)).then(Reshape((5, 5)))


def test_nothing_is_read_until_it_is_asked_for_and_nothing_is_kept(tmp_path, array):
    source = stored(tmp_path, array)
    source.file.unlink()
    ref = WeightRef(source).then(Cast(HALF), Transpose((1, 0, 2)))
    joined = WeightRef(Joined((ref, ref), 0))
    value = ir.Value(name="w", const_value=joined)
    assert value.const_value is joined and joined.nbytes == 96 and "WeightRef('w+w'" in repr(joined)
    with pytest.raises(OSError):
        ref.numpy()
    stored(tmp_path, array)
    np.testing.assert_array_equal(ref.numpy()[0, 0], array[0, 0])
    stored(tmp_path, array + 1)
    np.testing.assert_array_equal(ref.numpy()[0, 0], array[0, 0] + 1)


def test_a_file_that_ends_inside_says_so(tmp_path, array):
    source = stored(tmp_path, array)
    source.file.write_bytes(source.file.read_bytes()[:-4])
    with pytest.raises(OSError, match="ends inside 'w'"):
        source.read()


@pytest.mark.parametrize(
    "dtype", [FLOAT, HALF, BFLOAT, DOUBLE, ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT8E5M2]
)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_not_finite_is_refused_with_its_file_and_key(tmp_path, dtype, bad):
    if dtype == ir.DataType.FLOAT8E4M3FN:
        bad = np.nan  # it has no infinity
    array = np.ones(70_000, np.float32)
    array[-1] = bad
    ref = WeightRef(stored(tmp_path, array, dtype)).then(Slice(0, 0, 8), Cast(FLOAT))
    with pytest.raises(
        LatentcError, match=r"w\.bin: the weight 'w' is not finite: it holds .* in 1 of its 70,000"
    ):
        ref.numpy()
    array[-1] = -1
    whole = stored(tmp_path, array, dtype).read()
    assert all_finite(whole) and all_finite(whole.reshape(7, -1).T)


def test_an_additive_mask_may_be_stored(tmp_path):
    mask = np.triu(np.full((4, 4), -np.inf, np.float32), 1)
    np.testing.assert_array_equal(WeightRef(stored(tmp_path, mask)).numpy(), mask)
    with pytest.raises(LatentcError, match="infinity in 6"):
        WeightRef(stored(tmp_path, -mask)).numpy()
    with pytest.raises(LatentcError, match="infinity in 6"):
        WeightRef(stored(tmp_path, mask + 1)).numpy()


@pytest.mark.parametrize("size", [8, 4096])  # in the model file, and in the one beside it
def test_what_a_weight_raises_while_it_is_written_is_raised(tmp_path, size):
    from targets.graph.onnx_files import write_onnx

    array = np.full((size, 2), np.nan, np.float32)
    graph = bind(
        parse(f"(float[1,{size}] x, float[{size},2] w) => (float[1,2] y) {{ y = MatMul(x, w) }}"),
        tmp_path, w=array,
    )  # fmt: skip
    with pytest.raises(LatentcError, match="'w' is not finite: it holds NaN in"):
        write_onnx(graph, tmp_path / "model.onnx", silent, "writing")


def test_a_scalar_and_a_tensor_without_elements(tmp_path):
    scalar = WeightRef(stored(tmp_path, np.array(2.5, np.float32)))
    assert scalar.numpy().shape == () and scalar.numpy() == 2.5
    empty = WeightRef(stored(tmp_path, np.zeros((0, 3), np.float32), key="e"))
    assert empty.numpy().shape == (0, 3)


@pytest.mark.parametrize("narrow", [HALF, ir.DataType.BFLOAT16])
def test_large_arrays_are_cast_to_the_same_bits(narrow):
    generator = np.random.Generator(np.random.PCG64(0))
    sizes = np.exp2(generator.uniform(-40, 15.9, (300, 400))).astype(np.float32)
    array = sizes * generator.choice(np.float32([-1, 1]), sizes.shape)
    array[0, :4] = 0.0, -0.0, 65504.0, 2.0**-24
    for values in (array, array.T):
        cast = Cast(narrow).apply(values)
        assert cast.dtype == narrow.numpy()
        np.testing.assert_array_equal(cast.view(np.uint16), values.astype(narrow.numpy()).view(np.uint16))
