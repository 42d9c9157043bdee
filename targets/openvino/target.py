"""OpenVINO: ``openvino_model.xml`` and ``.bin``, as `optimum.intel` reads them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from artifacts.error_text import first_lines
from artifacts.errors import LatentcError
from artifacts.progress import Event
from targets.graph.nf4_nodes import as_uint4, places
from targets.graph.onnx_files import fix_dims, parse_fixed, write_onnx
from targets.openvino import stored_form
from targets.openvino.names import number_unnamed
from targets.openvino.nncf import METHODS
from targets.openvino.tokenizers import PACKAGE, can_convert, write_tokenizers
from targets.other_loaders import FAMILIES, OtherLoader
from targets.rewrites import INSTANCE_NORM, PAD_HEADS, SPLIT_LINEAR, SUB_PIXEL_CONV
from targets.target_contract import Availability, Companions, Context, Lowered
from targets.versions import installed, versions
from targets.weight_typed import WEIGHT_TYPED

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL = "openvino_model.xml"
WEIGHTS = "openvino_model.bin"


@dataclass(frozen=True)
class OpenVinoOptions:
    """Options of the target "openvino".

    Attributes:
        fix: symbolic dimensions to make fixed, as ``name=size`` with commas between them; a graph without any
            symbolic dimension is what NPUs take.
    """

    fix: str = ""


class OpenVino:
    """OpenVINO IR. The graph goes through OpenVINO's ONNX frontend, which maps the weights and loads none."""

    name = "openvino"
    summary = "OpenVINO, on Intel CPUs, GPUs and NPUs and on ARM CPUs"
    requirements = replace(
        WEIGHT_TYPED,
        rewrites=(SPLIT_LINEAR, SUB_PIXEL_CONV, INSTANCE_NORM.off(), PAD_HEADS.off()),
        approximations=frozenset({"pooled-keys"}),
        methods=frozenset(method.name for method in METHODS),
    )
    options: type[OpenVinoOptions] = OpenVinoOptions
    rebuild = None
    loaders = (
        OtherLoader("optimum-intel", FAMILIES),
        OtherLoader("OpenVINO GenAI", FAMILIES, companion="tokenizer/openvino_tokenizer.xml", extra="genai"),
    )

    @property
    def companions(self) -> Companions | None:
        """Tokenizers as graphs, where openvino-tokenizers is installed."""
        return write_tokenizers if can_convert() else None

    def available(self) -> Availability:
        """Whether the package openvino is installed."""
        return installed("openvino", "onnx", "onnx_ir")

    def lower(self, graph: ir.Model, options: OpenVinoOptions, out_dir: Path, context: Context) -> Lowered:
        """Streams `graph` into ``out_dir/openvino_model.xml`` and ``.bin``.

        The weights pass through a temporary ONNX file in `out_dir`, so the disk holds them twice for a while.
        Weights keep their stored element type; input and output names become tensor names.

        Raises:
            UsageError: `options.fix` names a dimension that the graph does not have.
            LatentcError: the files cannot be written, or OpenVINO has no rule for an operator.
        """
        fixed, normal_floats = as_uint4(fix_dims(graph, parse_fixed(options.fix)))
        # In out_dir, so that it is on the same disk and goes with the work folder if we are killed.
        temporary = Path(tempfile.mkdtemp(prefix=".onnx-", dir=out_dir))
        try:
            write_onnx(
                fixed,
                temporary / "model.onnx",
                context.progress,
                f"{graph.graph.name or out_dir.name}: writing weights",
            )
            task = f"{graph.graph.name or out_dir.name}: converting to OpenVINO"
            context.progress(Event(task, 0, None))
            self._convert(temporary / "model.onnx", fixed, normal_floats, out_dir)
            context.progress(Event(task, 1, 1))
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return Lowered(MODEL, (MODEL, WEIGHTS))

    def _convert(
        self, onnx_file: Path, graph: ir.Model, normal_floats: frozenset[str], out_dir: Path
    ) -> None:
        import openvino as ov

        core = ov.Core()
        try:
            model = core.read_model(onnx_file)
            lent = _retype(model, onnx_file, normal_floats)
            _restore_names(model, graph)
            number_unnamed(model)
            stored_form.store_whole_numbers(model)
            fp32_names = stored_form.keep_angles(model)
            ov.save_model(model, out_dir / MODEL, compress_to_fp16=False)
            _mark(out_dir / MODEL, fp32_names)
            del lent
        except RuntimeError as error:
            raise LatentcError(
                f"OpenVINO {ov.__version__} cannot convert {out_dir.name}: {first_lines(error, 6)}",
                "Use --target onnxruntime, or a newer openvino.",
            ) from error
        finally:
            # The model maps the temporary file; Windows cannot delete it before this is gone.
            model = None

    def toolchain(self) -> Mapping[str, str]:
        """Versions of onnx, onnx-ir and openvino, and of openvino-tokenizers where it is installed."""
        return versions("onnx", "onnx-ir", "openvino", PACKAGE)


def _restore_names(model: Any, graph: ir.Model) -> None:
    """Gives every input and output exactly the graph's name: the frontend may add or move tensor names."""
    for kind, ports, values in (
        ("inputs", model.inputs, graph.graph.inputs),
        ("outputs", model.outputs, graph.graph.outputs),
    ):
        if len(ports) != len(values):
            raise LatentcError(f"OpenVINO kept {len(ports)} of the graph's {len(values)} {kind}.")
    for port, value in zip(model.inputs, graph.graph.inputs, strict=True):
        if value.name not in port.get_names():
            port.get_tensor().set_names({value.name})
        port.get_node().set_friendly_name(value.name)
    for port, value in zip(model.outputs, graph.graph.outputs, strict=True):
        if value.name not in port.get_names():
            port.get_tensor().add_names({value.name})
        port.get_node().set_friendly_name(
            f"{value.name}{stored_form.RESULT}"
        )  # see `runtimes.sessions.openvino`


def _retype(model: Any, onnx_file: Path, names: frozenset[str]) -> list[Any]:
    """Makes nf4 of the uint4 constants of these names; their bytes stay mapped from the ONNX file's data.

    Returns:
        The arrays that the new constants point into: OpenVINO does not keep them alive.
    """
    lent: list[Any] = []
    if not names:
        return lent
    import numpy as np
    import openvino as ov

    stored = places(onnx_file, names)
    for constant in model.get_ordered_ops():
        if constant.get_type_name() != "Constant" or constant.get_friendly_name() not in names:
            continue
        name = constant.get_friendly_name()
        place = stored.pop(name)
        data: Any = (
            np.frombuffer(place, np.uint8)
            if isinstance(place, bytes)
            else np.memmap(onnx_file.parent / place.file, np.uint8, "r", place.offset, (place.length,))
        )
        lent.append(data)
        tensor = ov.Tensor(data, ov.Shape(list(constant.get_output_shape(0))), ov.Type.nf4)
        typed = ov.op.Constant(tensor, shared_memory=True)
        typed.set_friendly_name(name)
        for reader in constant.output(0).get_target_inputs():
            reader.replace_source_output(typed.output(0))
    if stored:
        raise LatentcError(f"OpenVINO {ov.__version__} moved the nf4 weight '{min(stored)}'.")
    model.validate_nodes_and_infer_types()
    return lent


def _mark(file: Path, fp32_names: frozenset[str]) -> None:
    """Marks, in the IR, what widens a weight of 16 bits as OpenVINO's own compression marks it, "decompression".

    And the nodes of the names `fp32_names` as those that stay in fp32 where a device computes in fp16. Without the
    first mark OpenVINO widens all of them while it loads, and holds them beside what its kernels then make of
    them. Its Python interface cannot set such marks.
    """
    tree = ElementTree.parse(file)
    net = tree.getroot()
    layers = {layer.attrib["id"]: layer for layer in net.iterfind("layers/layer")}
    for edge in net.iterfind("edges/edge"):
        maker, reader = layers[edge.attrib["from-layer"]], layers[edge.attrib["to-layer"]]
        if (maker.attrib["type"], reader.attrib["type"]) != ("Const", "Convert"):
            continue
        kinds = [layer.find("data") for layer in (maker, reader)]
        stored, wide = (data.attrib if data is not None else {} for data in kinds)
        if stored.get("element_type") not in ("f16", "bf16") or wide.get("destination_type") != "f32":
            continue
        _add_mark(reader, "decompression")
    for layer in layers.values():
        if layer.attrib["name"] in fp32_names:
            _add_mark(layer, "precise")
    tree.write(file, encoding="utf-8", xml_declaration=True)


def _add_mark(layer: ElementTree.Element, name: str) -> None:
    info = layer.find("rt_info")
    if info is None:
        info = ElementTree.Element("rt_info")
        layer.insert(0 if layer.find("data") is None else 1, info)
    ElementTree.SubElement(info, "attribute", {"name": name, "version": "0"})


TARGET = OpenVino()
