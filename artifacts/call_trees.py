"""How a Python call maps to a graph's inputs and outputs: trees of arguments and results."""

from __future__ import annotations

from typing import Annotated, Literal, Union

from pydantic import Field

from artifacts.strict_record import Record


class TensorLeaf(Record):
    """The graph input or output called `name`. `number`: the caller passes a Python number, not a tensor."""

    kind: Literal["tensor"] = "tensor"
    name: str
    number: bool = False


class ComplexLeaf(Record):
    """A complex tensor, whose real and imaginary parts are the last axis, of 2, of the input or output `name`."""

    kind: Literal["complex"] = "complex"
    name: str


class ConstLeaf(Record):
    """A value baked into the graph; a call with another value does not fit this graph."""

    kind: Literal["const"] = "const"
    value: None | bool | int | float | str


class SizeLeaf(Record):
    """A Python number that is the size of an `axis` of the graph's input `name`; a call with another does not fit."""

    kind: Literal["size"] = "size"
    name: str
    axis: int = Field(ge=0)


class AnyLeaf(Record):
    """A value that the graph does not depend on (a generator, a callback): passed over, None when rebuilt."""

    kind: Literal["any"] = "any"


class SequenceNode(Record):
    """A list or a tuple."""

    kind: Literal["list", "tuple"]
    items: tuple[Tree, ...]


class MappingNode(Record):
    """A dict with string keys."""

    kind: Literal["dict"] = "dict"
    items: dict[str, Tree]


class ObjectNode(Record):
    """An object rebuilt by calling ``class_path(**items)``, e.g. ``diffusers...:AutoencoderKLOutput``."""

    kind: Literal["object"] = "object"
    class_path: str
    items: dict[str, Tree]


Tree = Annotated[
    Union[TensorLeaf, ComplexLeaf, ConstLeaf, SizeLeaf, AnyLeaf, SequenceNode, MappingNode, ObjectNode],
    Field(discriminator="kind"),
]
