"""What an artifact keeps of the way from a model's weights to its graphs' constants, so that LoRAs can be switched.

For each graph of an artifact that was compiled to be adaptable, `FILE` in its folder; and in `WEIGHTS`, beside it,
those weights that the graph's constants do not tell.
"""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field, JsonValue, ValidationError

from artifacts import strict_json
from artifacts.errors import LatentcError
from artifacts.strict_record import Record

FILE = "adaptable.json"
WEIGHTS = "adaptable.safetensors"


class CastStep(Record):
    """To another element type, by its ONNX name ("FLOAT16")."""

    kind: Literal["cast"] = "cast"
    to: str


class TransposeStep(Record):
    """Axes reordered."""

    kind: Literal["transpose"] = "transpose"
    perm: tuple[int, ...]


class ReshapeStep(Record):
    """Another shape of as many elements."""

    kind: Literal["reshape"] = "reshape"
    to: tuple[int, ...]


class SliceStep(Record):
    """`start:stop` along an axis."""

    kind: Literal["slice"] = "slice"
    axis: int
    start: int
    stop: int


class PadStep(Record):
    """`after` zeros at the end of an axis."""

    kind: Literal["pad"] = "pad"
    axis: int
    after: int


class MergeStep(Record):
    """Neighbours added up: for each axis, how many become one."""

    kind: Literal["merge"] = "merge"
    axes: tuple[tuple[int, tuple[int, ...]], ...]


class MultiplyStep(Record):
    """By one float32 factor for each index along an axis; `factors` are their bytes in base64."""

    kind: Literal["multiply"] = "multiply"
    factors: str
    axis: int


Step = Annotated[
    Union[CastStep, TransposeStep, ReshapeStep, SliceStep, PadStep, MergeStep, MultiplyStep],
    Field(discriminator="kind"),
]


class Part(Record):
    """One of the component's weights, by its name in the module, and what is done to it."""

    weight: str
    steps: tuple[Step, ...]


class Expression(Record):
    """How a constant is made: its parts, joined along `axis` where there are several, then `steps`."""

    parts: Annotated[tuple[Part, ...], Field(min_length=1)]
    axis: int = 0
    steps: tuple[Step, ...] = ()


class Constant(Record):
    """A constant of the graph's file that holds a weight."""

    name: str
    made_of: Expression


class Place(Record):
    """A constant of the graph's file that holds a part of a quantized weight, and what was done to that part."""

    name: str
    steps: tuple[Step, ...] = ()


class QuantizedConstant(Record):
    """A weight in fewer bits, in several constants.

    Attributes:
        key: the weight's name for people.
        scheme, options: as a recipe's rule has them.
        kind, shape, groups: how the graph reads it.
        channel: the axis of its output channels.
        places: "values", "scale", and where there are such "zero", "left" and "right" -> the constant.
    """

    key: str
    made_of: Expression
    scheme: str
    options: dict[str, bool | int | str]
    kind: str
    shape: tuple[int, ...]
    channel: int
    groups: int
    places: dict[str, Place]


class Adaptable(Record):
    """The whole of `FILE`.

    Attributes:
        weights: name in the module -> shape, of every weight that the constants are made of.
        kept: of these, the ones that are in `WEIGHTS`, since the constants do not tell them.
        fixed: weights that the graph is made of in a way that is not told here: nothing can be added to them.
    """

    version: Literal[1] = 1
    constants: tuple[Constant, ...]
    quantized: tuple[QuantizedConstant, ...]
    weights: dict[str, tuple[int, ...]]
    kept: tuple[str, ...]
    fixed: tuple[str, ...]


def read(data: bytes, place: str) -> Adaptable:
    """The content of `FILE`.

    Args:
        place: of the file, for messages.

    Raises:
        LatentcError: it is not one.
    """
    try:
        content: JsonValue = strict_json.loads(data, place)
        return Adaptable.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise LatentcError(
            f"{place} does not say how constants are made: {where}: {first['msg']}.",
            "Compile the model again.",
        ) from error
