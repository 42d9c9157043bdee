"""Without what its extras bring, each command says in one line what to install."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import latentc
from bench.reference import SHAPES_DIR

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]

# Extra -> the commands that need it, in a folder that has what `folder` makes.
COMMANDS = {
    "adapters": ["compile shapes a --target onnxruntime --lora lora.safetensors"],
    "bench": ["bench out"],
    "bitsandbytes": ["compile quantized a --target onnxruntime"],
    "bom": ["bom out"],
    "gguf": ["compile shapes a --target onnxruntime --component unet=unet.gguf"],
    "nncf": ["compile shapes a --target openvino --quantize int4 --method awq"],
    "ray": ["serve out --ray"],
    "serve": ["serve out"],
    "sign": [
        "sign out --key key.pem",
        "verify out --public-key key.pem",
        "generate out a --require-signature key.pem",
    ],
    "tensorrt": ["compile shapes a --target tensorrt"],
    "video": ["generate out a -o clip.mp4", "generate out a --arg video=@clip.mp4"],
    "weighted": ["generate out a --weighted"],
}
# Without them a command does what else it does: tokenizers as graphs, models that have no other tokenizer, and where a
# component leaves its tolerance are missing.
NO_COMMAND = {"genai", "sentencepiece", "debug"}

# Runs commands as if nothing but what `latentc` itself asks for were installed.
SCRIPT = """
import contextlib, importlib.machinery, importlib.metadata, io, json, re, sys

hidden, distributions, commands = map(json.loads, sys.argv[1:])

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context=importlib.metadata.DistributionFinder.Context()):
        for found in super().find_distributions(context):
            if re.sub("[-_.]+", "-", found.name).lower() not in distributions:
                yield found

sys.meta_path[:] = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]

from latentc.cli import main

for command in commands:
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            main(command.split())
        except SystemExit as stop:
            status = stop.code
        except BaseException as error:
            status = repr(error)
    print(json.dumps([command, status, said.getvalue()]))
"""


def extras() -> dict[str, list[Requirement]]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        tables = tomllib.load(file)["project"]
    return {
        name: [Requirement(line) for line in lines]
        for name, lines in tables["optional-dependencies"].items()
        if name != "test"
    }


def hidden() -> tuple[list[str], list[str]]:
    """What the extras bring: names of modules, and of distributions."""
    from importlib import metadata

    distributions = {re.sub("[-_.]+", "-", r.name).lower() for lines in extras().values() for r in lines}
    distributions -= {"h11", "protobuf"}  # huggingface_hub's httpx needs the one, onnx the other
    modules = {
        module
        for module, names in metadata.packages_distributions().items()
        if {re.sub("[-_.]+", "-", name).lower() for name in names} & distributions
    }
    return sorted(modules), sorted(distributions)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("without")
    latentc.compile("shapes", work / "out", target="onnxruntime", check="none")
    shutil.copytree(SHAPES_DIR, work / "quantized")
    config = work / "quantized" / "unet" / "config.json"
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    config.write_text(json.dumps({**json.loads(config.read_text()), "quantization_config": settings}))
    for name in ("lora.safetensors", "unet.gguf", "clip.mp4", "key.pem"):
        (work / name).write_bytes(b"GGUF" * 100)
    return work


@pytest.fixture(scope="module")
def ended(folder: Path) -> dict[str, tuple[object, str]]:
    """Each command's exit status, and what it said."""
    commands = [command for lines in COMMANDS.values() for command in lines]
    arguments = (*map(json.dumps, hidden()), json.dumps(commands))
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=folder, env=path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    answers = (json.loads(line) for line in done.stdout.splitlines())
    return {command: (status, said) for command, status, said in answers}


def cases() -> Iterator[tuple[str, str]]:
    yield from ((extra, command) for extra, commands in COMMANDS.items() for command in commands)


@pytest.mark.parametrize(("extra", "command"), list(cases()))
def test_a_command_says_what_to_install(
    ended: dict[str, tuple[object, str]], extra: str, command: str
) -> None:
    status, said = ended[command]
    assert status == 1, said
    assert "Traceback" not in said
    *_, error, hint = said.strip().splitlines()
    assert error.startswith("Error: "), said
    assert re.search(rf"pip install (['\"]latentc\[[\w,]*\b{extra}\b[\w,]*\]['\"]|{extra})$", hint), said


def test_every_extra_is_here() -> None:
    assert COMMANDS.keys() | NO_COMMAND == extras().keys()
