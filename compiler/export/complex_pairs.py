"""Complex tensors as two real ones: ONNX has complex types in name only.

Rotary embeddings are often written as a product of complex numbers (Qwen-Image, Lumina, Z-Image). Here each
complex value of an exported program becomes two real nodes of the same shape, its real and imaginary part.
Operators that only move elements are applied to both; products follow (a + bi)(c + di); constants are split.
"""

from __future__ import annotations

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
from compiler.export.complex_arithmetic import REAL, RULES, Pair, PairGraph

_aten: Any = torch.ops.aten

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


class _Rewriter(PairGraph):
    def __init__(self, program: ExportedProgram) -> None:
        self.program = program
        super().__init__(program.graph)
        self.specs = {
            spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")
        }
        self.constants: dict[str, Any] = dict(program.constants)
        self.split: dict[str, tuple[InputSpec, InputSpec]] = {}
        self.renamed: dict[str, str] = {}

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
            self._becomes(node, tuple(self.call(node.target, part, args[1]) for part in self.pair(args[0])))
        elif name in RULES:
            result = RULES[name](self, node)
            if isinstance(result, tuple):
                self._becomes(node, result)
            else:
                if result is not None:
                    node.replace_all_uses_with(result)
                    self.renamed[node.name] = result.name
                self.graph.erase_node(node)
        elif name in _BILINEAR:
            self._becomes(node, self.product(node.target, self.either(args[0]), self.either(args[1])))
        elif name in _LINEAR:
            self._becomes(node, tuple(self._part(node, name, which) for which in (0, 1)))
        elif name in _CREATORS:
            self._becomes(node, self._created(node, args, kwargs))
        else:
            raise LatentcError(
                f"the operator {node.target} works on complex numbers, which ONNX does not have, and "
                "latentc has no rule that carries it as a pair of real ones.",
                "Add one to compiler/export/complex_arithmetic.py.",
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
                return argument if which == 0 else self.call(_aten.zeros_like.default, argument)
            if isinstance(argument, complex):
                return (argument.real, argument.imag)[which]
            return argument if which == 0 or not isinstance(argument, (int, float)) else 0

        args = tuple(part(argument, place in values) for place, argument in enumerate(node.args))
        return self.call(node.target, *args, **self._real_dtype(dict(node.kwargs)))

    def _created(self, node: Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Pair:
        def make(which: int) -> Node:
            mine = [self.pairs[a][which] if isinstance(a, Node) and a in self.pairs else a for a in args]
            options = self._real_dtype(kwargs)
            if "dtype" not in options:
                options["dtype"] = REAL[node.meta["val"].dtype]
            for place, argument in enumerate(mine):
                if isinstance(argument, complex):
                    mine[place] = (argument.real, argument.imag)[which]
                elif (
                    which == 1 and isinstance(argument, (int, float)) and _name(node.target).endswith("full")
                ):
                    mine[place] = 0
            created = self.call(node.target, *mine, **options)
            if which == 1 and _name(node.target).startswith(("ones", "new_ones")):
                return self.call(_aten.zeros_like.default, created)
            return created

        return make(0), make(1)

    @staticmethod
    def _real_dtype(kwargs: dict[str, Any]) -> dict[str, Any]:
        return {name: REAL.get(value, value) if name == "dtype" else value for name, value in kwargs.items()}

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
                placeholder = self.graph.placeholder(f"{node.name}_{suffix}")
            with self.mode:
                placeholder.meta = {**node.meta, "val": torch.empty(part.shape, dtype=part.dtype)}
            target = f"{spec.target}_{suffix}"
            self.constants[target] = part.contiguous().clone()
            parts.append(placeholder)
            specs.append(
                InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(name=placeholder.name), target, None)
            )
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
