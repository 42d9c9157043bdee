"""Four bits that follow the data: NNCF's AWQ, scale estimation and GPTQ, run on OpenVINO's CPU plugin.

NNCF gets a copy of the float graph that is thrown away afterwards; what is kept of it are each weight's values, scales
and zero points, which are then written as any other int4 weight is. So a target takes these methods if it takes int4.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from targets.data_aware_contract import Values, Weight
from targets.target_contract import Availability
from targets.versions import installed, versions

if TYPE_CHECKING:
    import numpy as np

# What has weights that NNCF would compress.
_WEIGHTED = frozenset(
    {
        "MatMul", "Gather", "Convolution", "GroupConvolution", "ConvolutionBackpropData",
        "GroupConvolutionBackpropData",
    }
)  # fmt: skip

# AWQ moves scales from weights into activations only behind one of the operators that NNCF lists. This one, which
# changes nothing, makes every product such a place; and each has its own, for NNCF would give a product's scale to
# all readers of an activation that several share.
_WIDE = 3.4028234e38


@dataclass(frozen=True)
class NncfMethod:
    """A `targets.data_aware_contract.DataAwareMethod` of NNCF's.

    Attributes:
        argument: of `nncf.compress_weights`, which turns it on.
        moves_scales: whether it moves scales from weights into activations.
    """

    name: str
    argument: str
    moves_scales: bool = False

    def available(self) -> Availability:
        """Whether NNCF and OpenVINO are here."""
        return installed("nncf", "openvino")

    def toolchain(self) -> Mapping[str, str]:
        """The versions of both."""
        return versions("nncf", "openvino")

    def compress(
        self, model_file: Path, weights: Sequence[Weight], calls: Sequence[Mapping[str, np.ndarray]]
    ) -> Iterator[tuple[Weight, Values]]:
        """Compresses once for each group size and kind of zero points; NNCF takes one for all weights."""
        # Its progress bars are drawn on standard output.
        with contextlib.redirect_stdout(io.StringIO()):
            import nncf
            import openvino as ov

            model = ov.Core().read_model(model_file)
            products = _prepare(model, {weight.name for weight in weights}, self.moves_scales)
            types = {port.get_any_name(): port.get_element_type().to_dtype() for port in model.inputs}
            dataset = nncf.Dataset([{n: call[n].astype(kind) for n, kind in types.items()} for call in calls])
            for group, asymmetric in sorted({(weight.group, weight.asymmetric) for weight in weights}):
                mine = {products[w.name] for w in weights if (w.group, w.asymmetric) == (group, asymmetric)}
                others = [
                    op.get_friendly_name()
                    for op in model.get_ordered_ops()
                    if op.get_type_name() in _WEIGHTED and op.get_friendly_name() not in mine
                ]
                model = nncf.compress_weights(
                    model,
                    mode=nncf.CompressWeightsMode.INT4_ASYM
                    if asymmetric
                    else nncf.CompressWeightsMode.INT4_SYM,
                    ratio=1.0,
                    group_size=group,
                    ignored_scope=nncf.IgnoredScope(names=others, validate=False),
                    all_layers=True,
                    dataset=dataset,
                    subset_size=len(calls),
                    backup_mode=nncf.BackupMode.NONE,
                    **{self.argument: True},
                )
        constants = {
            op.get_friendly_name(): op for op in model.get_ordered_ops() if op.get_type_name() == "Constant"
        }
        for weight in weights:
            values = _values(constants, weight)
            if values is not None:
                yield weight, values


AWQ = NncfMethod("awq", "awq", moves_scales=True)
SCALE_ESTIMATION = NncfMethod("scale-estimation", "scale_estimation")
GPTQ = NncfMethod("gptq", "gptq")
METHODS = (AWQ, SCALE_ESTIMATION, GPTQ)


def _prepare(model: Any, names: set[str], guarded: bool) -> dict[str, str]:
    """Gives each product of these weights the form that NNCF takes; weight -> the product's name.

    That is ``x . transpose(W)`` with W as [rows, inner], the only one that GPTQ knows.

    Raises:
        RuntimeError: the graph has no product of one of the weights.
    """
    import numpy as np
    from openvino import opset13 as ops

    products = {}
    for old in model.get_ordered_ops():
        if old.get_type_name() != "MatMul":
            continue
        constant = old.input_value(1).get_node()
        if constant.get_type_name() == "Convert":
            constant = constant.input_value(0).get_node()
        name = constant.get_friendly_name()
        if constant.get_type_name() != "Constant" or name not in names:
            continue
        kind = np.float16 if constant.get_element_type().get_type_name() == "f16" else np.float32
        data = constant.get_data(dtype=kind)
        turned = old.get_attributes()["transpose_b"]
        fresh = ops.constant(data if turned else np.ascontiguousarray(data.T))
        fresh.set_friendly_name(name)
        constant.set_friendly_name(f"{name}/replaced")
        wide = fresh if kind is np.float32 else ops.convert(fresh, "f32")
        x = old.input_value(0)
        x = ops.clamp(x, -_WIDE, _WIDE, name=_guard(name)).output(0) if guarded else x
        new = ops.matmul(x, wide, transpose_a=False, transpose_b=True, name=f"{name}/product")
        for reader in old.output(0).get_target_inputs():
            reader.replace_source_output(new.output(0))
        products[name] = new.get_friendly_name()
    missing = names - products.keys()
    if missing:
        raise RuntimeError(f"OpenVINO has no product of the weight '{min(missing)}'")
    return products


def _guard(name: str) -> str:
    return f"{name}/input"


def _values(constants: Mapping[str, Any], weight: Weight) -> Values | None:
    stored = constants[weight.name]
    if stored.get_element_type().get_type_name() != ("u4" if weight.asymmetric else "i4"):
        return None
    rows, groups, group = stored.get_output_shape(0)
    values = _unpacked(stored, rows * groups * group).reshape(rows, groups * group)
    scale = constants[f"{weight.name}/scale"].get_data(dtype="float32").reshape(rows, groups)
    if weight.asymmetric:
        zero = _unpacked(constants[f"{weight.name}/zero_point"], rows * groups).reshape(rows, groups)
    else:
        values, zero = (values ^ 8).view("int8") - 8, None
    moved = constants.get(f"{_guard(weight.name)}/awq_mul/scale")
    inputs = None if moved is None else moved.get_data(dtype="float32").reshape(groups * group)
    return Values(values, scale, zero, None if inputs is None or (inputs == 1).all() else inputs)


def _unpacked(constant: Any, count: int) -> np.ndarray:
    """uint8 [count], of two elements in a byte, the first in the low bits."""
    import numpy as np

    packed = np.asarray(constant.data).view(np.uint8).reshape(-1)
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(-1)[:count]
