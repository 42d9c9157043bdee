"""Parts that tests of workspaces build."""

from __future__ import annotations

from artifacts.hashing import content_key
from artifacts.workspace import Workspace

KEY = content_key("one")
OTHER = content_key("two")


def build(ws: Workspace, key: str, text: str = "hello") -> None:
    with ws.build(key) as building:
        (building.folder / "model.onnx").write_text(text)
        building.meta["shape"] = (1, "batch")
