"""The built-in model as engines for three GPUs: what they hold, in fewer bits, built again, and tampered with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from artifacts.errors import LatentcError
from artifacts.manifest import DimRange
from artifacts.verification import Artifact, open_artifact
from compiler.build import compile
from compiler.compile_request import CompileRequest
from compiler.lowering.compile_cache import CompileCache
from compiler.rebuild import RebuildRequest, rebuild
from targets.tensorrt import target as tensorrt
from tests.targets.tensorrt.test_target import GPUS, needs_builder

pytestmark = [pytest.mark.slow, needs_builder]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    out = tmp_path_factory.mktemp("tensorrt") / "shapes"
    batch = DimRange(min=1, max=4)
    request = CompileRequest(
        "shapes", out, "tensorrt", batch=batch, options={"gpu": ",".join(GPUS), "profile": ""}
    )
    return compile(request)


def test_the_engines_of_shapes(shapes: Artifact) -> None:
    found = open_artifact(shapes.root).manifest
    assert found == shapes.manifest
    for graph in found.graphs:
        built = graph.built
        engine = (shapes.root / graph.model_file).read_bytes()
        assert built["builder"] == "rtx"
        assert built["version"] == tensorrt.version_here("rtx")
        assert built["compute_capabilities"] == list(GPUS)
        assert built["sha256"] == hashlib.sha256(engine).hexdigest()
        # The graph's own inputs and outputs, by name and in order.
        for kind, specs in (("inputs", graph.inputs), ("outputs", graph.outputs)):
            tensors = built[kind]
            assert [(t["name"], t["dtype"]) for t in tensors] == [(s.name, s.dtype) for s in specs]
            for tensor, spec in zip(tensors, specs, strict=True):
                assert [d if isinstance(d, int) else -1 for d in spec.shape] == tensor["shape"]
        assert [each.check for each in graph.evidence] == ["not measured"]
    unet = next(g for g in found.graphs if g.folder == "unet")
    assert unet.built["profiles"] == [
        {
            "sample": [[1, 4, 16, 16], [4, 4, 16, 16], [8, 4, 16, 16]],
            "encoder_hidden_states": [[1, 77, 128], [4, 77, 128], [8, 77, 128]],
        }
    ]
    for kind in ("convolution", "matrix_multiply", "softmax"):
        assert set(unet.built["layers"][kind]) == {"float16"}
    # The timestep's phases stay in fp32.
    assert set(unet.built["layers"]["unary"]) == {"float32"}


# What each scheme makes of the UNet's convolutions and products: element types that its layers must have.
SCHEMES = {
    "int8": {"dequantize": {"float16"}, "constant": {"int8", "float16"}},
    "int4": {"dequantize": {"float16"}, "constant": {"int4", "int8", "float16"}},
    "int8-activations": {"quantize": {"int8"}, "dequantize": {"float16"}, "constant": {"int8", "float16"}},
}


@pytest.fixture(scope="module")
def compile_cache() -> CompileCache:
    return CompileCache()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_quantized_engines_of_shapes(
    scheme: str, shapes: Artifact, compile_cache: CompileCache, tmp_path: Path
) -> None:
    gpu = {"gpu": ",".join(GPUS)}
    quantize = f"unet={scheme}"
    calibration = ("a large red circle at the left on a blue background",)
    artifact = compile(
        CompileRequest(
            "shapes", tmp_path / "out", "tensorrt", options=gpu, quantize=quantize, calibration=calibration
        ),
        compile_cache=compile_cache,
    )
    found, plain = (
        next(g for g in manifest.graphs if g.folder == "unet")
        for manifest in (artifact.manifest, shapes.manifest)
    )
    assert found.built["compute_capabilities"] == list(GPUS)
    layers = found.built["layers"]
    for kind, types in SCHEMES[scheme].items():
        assert types <= set(layers[kind])
    for kind in ("convolution", "matrix_multiply"):
        assert layers[kind] == plain.built["layers"][kind]  # of what was restored: in fp16, as many as ever
    weights = [w for w in found.weights if w.scheme != "none"]
    assert layers["dequantize"]["float16"] >= len(weights) > 100
    assert (artifact.root / "unet/model.onnx_data").stat().st_size < 0.65 * (
        shapes.root / "unet/model.onnx_data"
    ).stat().st_size
    (pictures,) = artifact.manifest.pictures
    assert pictures.reason.startswith("needs an NVIDIA GPU of sm86 or sm89 or sm120")


def test_engines_of_shapes_are_built_again_for_another_gpu(shapes: Artifact, tmp_path: Path) -> None:
    request = RebuildRequest(shapes.root, tmp_path / "out", {"gpu": "sm75", "profile": "batch=1"})
    found = rebuild(request).manifest
    assert found.options == {**shapes.manifest.options, "gpu": "sm75", "profile": "batch=1"}
    for before, after in zip(shapes.manifest.graphs, found.graphs, strict=True):
        assert after.built["compute_capabilities"] == ["sm75"]
        assert after.built["layers"] == before.built["layers"]
        assert after.built["sha256"] != before.built["sha256"]
        assert after.evidence[0].reason.startswith(
            "built again without the model; before: needs an NVIDIA GPU of sm86"
        )
    weights = [
        {f.path: f.sha256 for f in m.files if f.path.endswith(".onnx_data")} for m in (shapes.manifest, found)
    ]
    assert weights[0] == weights[1]


def test_an_engine_that_was_tampered_with(shapes: Artifact) -> None:
    from runtimes.sessions.tensorrt import SESSION

    graph = shapes.manifest.graphs[0]
    file = shapes.root / graph.model_file
    engine = bytearray(file.read_bytes())
    engine[len(engine) // 2] ^= 1
    file.write_bytes(engine)
    try:
        with pytest.raises(LatentcError, match=r"'text_encoder/model.engine': has SHA-256"):
            open_artifact(shapes.root)
        with pytest.raises(LatentcError, match=r"not the engine that the manifest names"):
            SESSION.open(file, "auto", "fp16", None, graph.built)
    finally:
        engine[len(engine) // 2] ^= 1
        file.write_bytes(engine)
