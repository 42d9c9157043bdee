"""Complex tensors as two real ones: ONNX has complex types in name only.

Rotary embeddings are often written as a product of complex numbers (Qwen-Image, Lumina, Z-Image). Here each
complex value of an exported program becomes two real nodes of the same shape, its real and imaginary part.
Operators that only move elements are applied to both; products follow (a + bi)(c + di); constants are split.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import (
    ConstantArgument,
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputSpec,
    TensorArgument,
)
from torch.fx import Node

from artifacts.errors import LatentcError

_aten: Any = torch.ops.aten

_REAL = {torch.complex32: torch.float16, torch.complex64: torch.float32, torch.complex128: torch.float64}

# Operators that are linear over the reals and treat all elements alike -> the positions of the arguments that
# hold elements (the others are shapes, indices, masks). They are applied to each part.
_LINEAR: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(
        "view _unsafe_view reshape view_as permute transpose t mT unsqueeze squeeze flatten "
        "unflatten movedim slice select narrow index index_select gather take_along_dim split "
        "split_with_sizes chunk unbind tensor_split expand expand_as broadcast_to repeat repeat_interleave "
        "tile clone contiguous detach alias lift_fresh lift_fresh_copy flip roll sum mean neg "
        "constant_pad_nd pad cumsum tril triu diagonal resolve_neg".split(),
        (0,),
    ),
    "cat": (0,),
    "concat": (0,),
    "stack": (0,),
    "where": (1, 2),
    "add": (0, 1),
    "sub": (0, 1),
    "copy": (0, 1),
    "fill": (0, 1),
    "index_put": (0, 2),
    "slice_scatter": (0, 1),
    "select_scatter": (0, 1),
    "scatter": (0, 3),
}

_BILINEAR = frozenset({"mul", "matmul", "mm", "bmm"})

_CREATORS = frozenset(
    {"zeros", "ones", "full", "new_zeros", "new_ones", "new_full", "zeros_like", "ones_like"}
)

Pair = tuple[Node, Node]


def without_complex(program: ExportedProgram) -> ExportedProgram:
    """The same program on real tensors alone; `program` itself when there is nothing to do. Use the result: `program`
    may have been changed on the way.

    Raises:
        LatentcError: an input, a result or a weight is complex, or an operator has no rule.
    """
    if not any(_is_complex(node.meta.get("val")) for node in program.graph.nodes):
        return program
    if any(_is_mutable(node.target) for node in program.graph.nodes):
        # In-place operators become functional ones, and nothing is decomposed yet. The program is traced anew.
        program = program.run_decompositions({})
    return _Rewriter(program).run()


def _is_mutable(target: Any) -> bool:
    return isinstance(target, torch._ops.OpOverload) and target._schema.is_mutable


def _is_complex(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_is_complex(item) for item in value)
    return isinstance(value, torch.Tensor) and value.dtype.is_complex


class _Rewriter:
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        self.graph = program.graph
        self.pairs: dict[Node, Pair] = {}
        self.specs = {
            spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")
        }
        self.constants: dict[str, Any] = dict(program.constants)
        self.split: dict[str, tuple[InputSpec, InputSpec]] = {}
        self.renamed: dict[str, str] = {}
        self.mode = next(
            value.fake_mode
            for node in self.graph.nodes
            if hasattr(value := node.meta.get("val"), "fake_mode")
        )
        self.at: Node

    def run(self) -> ExportedProgram:
        for node in list(self.graph.nodes):
            self.at = node
            if node.op == "placeholder" and _is_complex(node.meta.get("val")):
                self._constant(node)
            elif node.op == "output":
                self._no_complex_result(node)
            elif node.op == "call_function" and self._touches_complex(node):
                with self.graph.inserting_before(node):
                    self._rewrite(node)
        for node in reversed(list(self.graph.nodes)):
            if node in self.pairs:
                self.graph.erase_node(node)
        self.graph.eliminate_dead_code()
        return self._rebuilt()

    # What a node becomes

    def _touches_complex(self, node: Node) -> bool:
        return _is_complex(node.meta.get("val")) or any(arg in self.pairs for arg in node.all_input_nodes)

    def _rewrite(self, node: Node) -> None:
        name = _name(node.target)
        args, kwargs = node.args, dict(node.kwargs)
        if name == "getitem":
            self._becomes(node, tuple(self._call(node.target, part, args[1]) for part in self._pair(args[0])))
        elif name in _RULES:
            result = _RULES[name](self, node)
            if isinstance(result, tuple):
                self._becomes(node, result)
            else:
                if result is not None:
                    node.replace_all_uses_with(result)
                    self.renamed[node.name] = result.name
                self.graph.erase_node(node)
        elif name in _BILINEAR:
            self._becomes(node, self._product(node.target, self._either(args[0]), self._either(args[1])))
        elif name in _LINEAR:
            self._becomes(node, tuple(self._part(node, name, which) for which in (0, 1)))
        elif name in _CREATORS:
            self._becomes(node, self._created(node, args, kwargs))
        else:
            raise LatentcError(
                f"the operator {node.target} works on complex numbers, which ONNX does not have, and "
                "latentc has no rule that carries it as a pair of real ones.",
                "Add one to compiler/export/complex_pairs.py.",
            )

    def _becomes(self, node: Node, pair: tuple[Any, ...]) -> None:
        self.pairs[node] = (pair[0], pair[1])

    def _part(self, node: Node, name: str, which: int) -> Node:
        """A linear operator applied to the real (0) or imaginary (1) parts of its arguments."""
        values = _LINEAR[name]

        def part(argument: Any, holds_elements: bool) -> Any:
            if isinstance(argument, (list, tuple)):
                return [part(item, holds_elements) for item in argument]
            if isinstance(argument, Node) and argument in self.pairs:
                return self.pairs[argument][which]
            if not holds_elements:
                return argument
            if isinstance(argument, Node) and isinstance(argument.meta.get("val"), torch.Tensor):
                return argument if which == 0 else self._call(_aten.zeros_like.default, argument)
            if isinstance(argument, complex):
                return (argument.real, argument.imag)[which]
            return argument if which == 0 or not isinstance(argument, (int, float)) else 0

        args = tuple(part(argument, place in values) for place, argument in enumerate(node.args))
        return self._call(node.target, *args, **self._real_dtype(dict(node.kwargs)))

    def _product(self, target: Any, left: tuple[Any, Any], right: tuple[Any, Any]) -> Pair:
        (a, b), (c, d) = left, right

        def times(x: Any, y: Any) -> Any:
            return None if x is None or y is None else self._call(target, *self._promoted(x, y))

        def combine(operator: Any, x: Any, y: Any) -> Any:
            if y is None:
                return x
            if x is None:
                return y if operator is _aten.add.Tensor else self._call(_aten.neg.default, y)
            return self._call(operator, x, y)

        real = combine(_aten.sub.Tensor, times(a, c), times(b, d))
        imaginary = combine(_aten.add.Tensor, times(a, d), times(b, c))
        return real, imaginary

    def _promoted(self, *values: Any) -> tuple[Any, ...]:
        """Nodes cast to their common type, which torch finds by itself and ONNX does not."""
        nodes = [value for value in values if isinstance(value, Node)]
        dtypes = {node.meta["val"].dtype for node in nodes}
        if len(dtypes) < 2:
            return values
        dtype = torch.float64 if torch.float64 in dtypes else torch.float32
        return tuple(
            self._call(_aten._to_copy.default, value, dtype=dtype) if isinstance(value, Node) else value
            for value in values
        )

    def _created(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pair:
        def make(which: int) -> Node:
            mine = [self.pairs[a][which] if isinstance(a, Node) and a in self.pairs else a for a in args]
            options = self._real_dtype(kwargs)
            if "dtype" not in options:
                options["dtype"] = _REAL[node.meta["val"].dtype]
            for place, argument in enumerate(mine):
                if isinstance(argument, complex):
                    mine[place] = (argument.real, argument.imag)[which]
                elif (
                    which == 1 and isinstance(argument, (int, float)) and _name(node.target).endswith("full")
                ):
                    mine[place] = 0
            created = self._call(node.target, *mine, **options)
            if which == 1 and _name(node.target).startswith(("ones", "new_ones")):
                return self._call(_aten.zeros_like.default, created)
            return created

        return make(0), make(1)

    def _pair(self, node: Any) -> Pair:
        return self.pairs[node]

    def _either(self, value: Any) -> tuple[Any, Any]:
        """(real, imaginary) of a pair, a real node or a number; None stands for no imaginary part."""
        if isinstance(value, Node):
            return self.pairs.get(value, (value, None))
        if isinstance(value, complex):
            return value.real, value.imag
        return value, None

    @staticmethod
    def _real_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
        return {name: _REAL.get(value, value) if name == "dtype" else value for name, value in kwargs.items()}

    def _call(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        node: Node = self.graph.call_function(target, args, kwargs)
        known = {
            key: value for key, value in self.at.meta.items() if key in ("stack_trace", "nn_module_stack")
        }
        values = torch.utils._pytree.tree_map(
            lambda a: a.meta["val"] if isinstance(a, Node) else a,
            (args, kwargs),
            is_leaf=lambda a: isinstance(a, Node),
        )
        with self.mode:
            node.meta = {**known, "val": target(*values[0], **values[1])}
        return node

    # The program around the nodes

    def _constant(self, node: Node) -> None:
        spec = self.specs[node.name]
        tensor = self.constants.get(spec.target or "")
        if spec.kind not in (InputKind.CONSTANT_TENSOR, InputKind.BUFFER) or not isinstance(
            tensor, torch.Tensor
        ):
            raise LatentcError(
                f"'{spec.target or node.name}' is a complex {spec.kind.name.lower().replace('_', ' ')}; only "
                "constants may be complex."
            )
        parts, specs = [], []
        for suffix, part in (("re", tensor.real), ("im", tensor.imag)):
            with self.graph.inserting_before(node):
                made = self.graph.placeholder(f"{node.name}_{suffix}")
            with self.mode:
                made.meta = {**node.meta, "val": torch.empty(part.shape, dtype=part.dtype)}
            target = f"{spec.target}_{suffix}"
            self.constants[target] = part.contiguous().clone()
            parts.append(made)
            specs.append(InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name=made.name), target, None))
        self.split[node.name] = (specs[0], specs[1])
        self.constants.pop(spec.target or "", None)
        self.pairs[node] = (parts[0], parts[1])

    def _no_complex_result(self, node: Node) -> None:
        for argument in node.all_input_nodes:
            if argument in self.pairs:
                raise LatentcError(
                    "a result of the module is a complex tensor, which ONNX runtimes do not return."
                )

    def _rebuilt(self) -> ExportedProgram:
        old = self.program.graph_signature
        specs: list[InputSpec] = []
        for spec in old.input_specs:
            halves = None if isinstance(spec.arg, ConstantArgument) else self.split.get(spec.arg.name)
            specs.extend(halves or (spec,))
        results: list[OutputSpec] = []
        for result in old.output_specs:
            name = self.renamed.get(getattr(result.arg, "name", ""))
            results.append(replace(result, arg=replace(result.arg, name=name)) if name else result)
        module = self.program.graph_module
        module.recompile()
        return ExportedProgram(
            root=module,
            graph=self.graph,
            graph_signature=ExportGraphSignature(specs, results),
            state_dict=self.program.state_dict,
            range_constraints=self.program.range_constraints,
            module_call_graph=self.program.module_call_graph,
            example_inputs=self.program.example_inputs,
            constants=self.constants,
            verifiers=self.program.verifiers,
        )


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    return str(getattr(packet, "__name__", None) or getattr(target, "__name__", target))


def _view_as_complex(r: _Rewriter, node: Node) -> Pair:
    pairs = node.args[0]
    return r._call(_aten.select.int, pairs, -1, 0), r._call(_aten.select.int, pairs, -1, 1)


def _view_as_real(r: _Rewriter, node: Node) -> Node:
    return r._call(_aten.stack.default, list(r._pair(node.args[0])), -1)


def _complex(r: _Rewriter, node: Node) -> Pair:
    real, imaginary = node.args
    return real, imaginary  # type: ignore[return-value]


def _polar(r: _Rewriter, node: Node) -> Pair:
    size, angle = node.args
    cos, sin = r._call(_aten.cos.default, angle), r._call(_aten.sin.default, angle)
    return r._call(_aten.mul.Tensor, size, cos), r._call(_aten.mul.Tensor, size, sin)


def _conj(r: _Rewriter, node: Node) -> Pair:
    real, imaginary = r._pair(node.args[0])
    return real, r._call(_aten.neg.default, imaginary)


def _same(r: _Rewriter, node: Node) -> Pair:
    return r._pair(node.args[0])


def _abs(r: _Rewriter, node: Node) -> Node:
    real, imaginary = r._pair(node.args[0])
    squares = [r._call(_aten.mul.Tensor, part, part) for part in (real, imaginary)]
    return r._call(_aten.sqrt.default, r._call(_aten.add.Tensor, *squares))


def _exp(r: _Rewriter, node: Node) -> Pair:
    real, imaginary = r._pair(node.args[0])
    size = r._call(_aten.exp.default, real)
    cos, sin = r._call(_aten.cos.default, imaginary), r._call(_aten.sin.default, imaginary)
    return r._call(_aten.mul.Tensor, size, cos), r._call(_aten.mul.Tensor, size, sin)


def _div(r: _Rewriter, node: Node) -> Pair:
    (a, b), (c, d) = r._either(node.args[0]), r._either(node.args[1])
    if d is None:
        zero = r._call(_aten.zeros_like.default, a) if b is None else r._call(node.target, b, c)
        return r._call(node.target, a, c), zero
    # Multiply by the conjugate of the divisor and divide by its square.
    real, imaginary = r._product(_aten.mul.Tensor, (a, b), (c, r._call(_aten.neg.default, d)))
    squares = [r._call(_aten.mul.Tensor, part, part) for part in (c, d)]
    square = r._call(_aten.add.Tensor, *squares)
    return r._call(_aten.div.Tensor, real, square), r._call(_aten.div.Tensor, imaginary, square)


def _to(r: _Rewriter, node: Node) -> Pair | Node:
    """Casts: between complex types, from a real one (no imaginary part), to a real one (drops it)."""
    source, dtype = node.args[0], node.meta["val"].dtype
    real, imaginary = r._either(source)
    real = r._call(_aten._to_copy.default, real, dtype=_REAL.get(dtype, dtype))
    if not dtype.is_complex:
        return real
    if imaginary is None:
        return real, r._call(_aten.zeros_like.default, real)
    return real, r._call(_aten._to_copy.default, imaginary, dtype=_REAL[dtype])


def _pad_sequence(r: _Rewriter, node: Node) -> Pair:
    """A list of sequences, filled up with a real number to the length of the longest."""
    sequences, first, value = (*node.args, False, 0.0)[:3]
    parts = []
    for which, filled in ((0, value), (1, 0.0)):
        items = [r._pair(item)[which] for item in sequences]  # type: ignore[union-attr]
        parts.append(r._call(node.target, items, first, filled))
    return parts[0], parts[1]


def _size(r: _Rewriter, node: Node) -> Node:
    return r._call(node.target, r._pair(node.args[0])[0], *node.args[1:])


def _nothing(r: _Rewriter, node: Node) -> None:
    """Assertions about a dtype that is no longer there."""


_RULES: dict[str, Callable[[_Rewriter, Node], Pair | Node | None]] = {
    "view_as_complex": _view_as_complex,
    "view_as_real": _view_as_real,
    "_view_as_real_physical": _view_as_real,
    "complex": _complex,
    "polar": _polar,
    "conj": _conj,
    "_conj": _conj,
    "conj_physical": _conj,
    "_conj_physical": _conj,
    "resolve_conj": _same,
    "real": lambda r, node: r._pair(node.args[0])[0],
    "imag": lambda r, node: r._pair(node.args[0])[1],
    "abs": _abs,
    "exp": _exp,
    "div": _div,
    "to": _to,
    "_to_copy": _to,
    "type_as": _to,
    "pad_sequence": _pad_sequence,
    "sym_size": _size,
    "sym_numel": _size,
    "_assert_tensor_metadata": _nothing,
}
