"""What is measured side by side: our own compiles, PyTorch, and other projects' exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Ours:
    """One way that we compile: everything but the target, and the search for speed, is left to our defaults."""

    target: str
    fastest: bool = False

    @property
    def name(self) -> str:
        """Of its folder and its row."""
        return f"latentc {self.target}" + (" fastest" if self.fastest else "")


@dataclass(frozen=True)
class Export:
    """How a peer makes its files: `python ARGUMENTS` in its environment, which is given the model and the folder."""

    peer: str
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Peer:
    """Another way to run the model.

    Attributes:
        name: of its row.
        loader: of `engines.py`, run in the environment `environment`; or None for PyTorch here.
        export: makes what it loads.
        options: of `bench.drawing_engines.TorchEngine`.
        about: for people.
    """

    name: str
    about: Mapping[str, str]
    loader: str | None = None
    environment: str = ""
    export: Export | None = None
    options: Mapping[str, object] = field(default_factory=dict)


_CLI = ("-m", "optimum.commands.optimum_cli", "export")
OPENVINO = Export("optimum-intel", (*_CLI, "openvino", "--task", "text-to-image", "--weight-format", "fp16"))
ONNX = Export("optimum-onnx", (*_CLI, "onnx", "--task", "text-to-image"))

OURS = (
    Ours("openvino"),
    Ours("onnxruntime"),
    Ours("openvino", fastest=True),
    Ours("onnxruntime", fastest=True),
)
PEERS = (
    Peer(
        "PyTorch bf16 channels-last",
        {"target": "pytorch", "precision": "bf16"},
        options={"precision": "bf16", "channels_last": True},
    ),
    Peer("torch.compile fp32", {"target": "pytorch", "precision": "fp32"}, options={"compile": True}),
    Peer(
        "torch.compile bf16",
        {"target": "pytorch", "precision": "bf16"},
        options={"precision": "bf16", "channels_last": True, "compile": True},
    ),
    Peer(
        "optimum-intel fp16",
        {"target": "openvino", "precision": "fp16"},
        "optimum-intel",
        "optimum-intel",
        OPENVINO,
    ),
    Peer(
        "openvino_genai fp16",
        {"target": "openvino", "precision": "fp16"},
        "openvino-genai",
        "openvino-genai",
        OPENVINO,
    ),
    Peer(
        "optimum-onnx fp32",
        {"target": "onnxruntime", "precision": "fp32"},
        "optimum-onnx",
        "optimum-onnx",
        ONNX,
    ),
)
