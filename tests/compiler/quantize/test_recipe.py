"""`--quantize`: what it may say, what it may not, and that a recipe file says the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from artifacts.errors import LatentcError, UsageError
from artifacts.manifest import Recipe
from compiler.quantize import recipe as recipes
from compiler.quantize.find import Layout
from compiler.quantize.recipe import Choice, dump, load, read, resolve, with_method
from targets import target_table as targets

NAMES = {"text_encoder": ["text_encoder"], "unet": ["unet"], "vae": ["vae_encoder", "vae_decoder"]}
LINEAR = Layout("linear", (256, 128), 0)


def said(recipe: Recipe) -> dict[str, tuple[str, dict]]:
    return {n: (c.scheme, {k: v for k, v in c.options.items() if v}) for n, c in recipe.components.items()}


INT4 = {"group": 64, "scale": "mse", "scales": "fp16", "small": 1, "method": "none"}


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("int8", {"*": ("int8", {"small": 1})}),
        ("int4", {"*": ("int4", INT4)}),
        ("int4:group=32,asymmetric", {"*": ("int4", INT4 | {"group": 32, "asymmetric": True})}),
        ("int8:asymmetric", {"*": ("int8", {"asymmetric": True, "small": 1})}),
        ("int8:asymmetric=no", {"*": ("int8", {"small": 1})}),
        (
            "unet=int4:group=32,scale=max,text_encoder=int8,vae=fp16",
            {
                "unet": ("int4", INT4 | {"group": 32, "scale": "max"}),
                "text_encoder": ("int8", {"small": 1}),
                "vae": ("fp16", {}),
            },
        ),
        (
            "int8,unet=nf4:low_rank=16",
            {"*": ("int8", {"small": 1}), "unet": ("nf4", {"scales": "fp16", "small": 1, "low_rank": 16})},
        ),
        ("unet=int4, asymmetric", {"unet": ("int4", INT4 | {"asymmetric": True})}),
        (
            "unet=int4:group=32,scales=fp32,vae=fp16",
            {"unet": ("int4", INT4 | {"group": 32, "scales": "fp32"}), "vae": ("fp16", {})},
        ),
        ("int4,scales=fp32", {"*": ("int4", INT4 | {"scales": "fp32"})}),
    ],
)
def test_specs(text, means):
    assert said(read(text)) == means


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "int3",
            r"'int3' is not understood \(schemes: int8, int4, nf4, int8-activations, fp32, fp16, bf16\)",
        ),
        ("", "'' is not understood"),
        ("unet=int3", "'unet=int3' is not understood"),
        ("unet=int4,unet=int8", "'unet' is named twice"),
        ("int4:group=48", "int4:group=48: it is one of 32, 64, 128"),
        ("int4:gruop=32", r"'int4' has no option 'gruop' \(it has: group, asymmetric"),
        ("int8:asymmetric=perhaps", "expected yes or no"),
        ("nf4:low_rank=many", "expected a whole number"),
        ("vae=fp16:group=32", "'fp16' takes no options"),
        ("int4:method=rtn", "int4:method=rtn: it is one of none, awq, scale-estimation, gptq"),
        ("int4:method=awq,low_rank=16", "int4:method=awq cannot be had with 'low_rank'"),
        ("int4:method=gptq,positive", "int4:method=gptq cannot be had with 'positive'"),
    ],
)
def test_what_is_not_a_spec(text, message):
    with pytest.raises(UsageError, match=message):
        read(text)


def test_a_recipe_comes_back_from_its_file(tmp_path):
    text = """
version = 1
[components.unet]
scheme = "int4"
options = { group = 32 }
[[components.unet.weights]]
match = "conv_in.*"
scheme = "none"
[[components.unet.weights]]
match = "*.to_q.weight"
scheme = "int8"
options = { asymmetric = true }
[components."*"]
scheme = "fp16"
"""
    file = tmp_path / "r.toml"
    file.write_text(text, encoding="utf-8")
    found = load(file)
    assert said(found) == {"unet": ("int4", INT4 | {"group": 32}), "*": ("fp16", {})}
    again = tmp_path / "again.toml"
    again.write_text(dump(found), encoding="utf-8")
    assert read(str(again)) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("components = 3", "components"),
        ("version = 2\n[components.unet]\nscheme = 'int8'", "version"),
        ("[components.unet]\nscheme = 'int9'", "no weight scheme 'int9'"),
        ("[components.unet]\nsheme = 'int8'", "sheme"),
        ("[components.unet", "r.toml is no recipe"),
    ],
)
def test_a_file_that_is_no_recipe(text, message, tmp_path):
    (tmp_path / "r.toml").write_text(text, encoding="utf-8")
    with pytest.raises(LatentcError, match=message):
        read(str(tmp_path / "r.toml"))
    with pytest.raises(LatentcError, match="cannot read the recipe"):
        read(str(tmp_path / "missing.toml"))


def test_every_graph_has_its_part_and_a_folder_comes_first():
    found = resolve(read("int8,vae=fp16,vae_decoder=int4"), NAMES, targets.get("openvino"))
    assert {n: c.scheme for n, c in found.components.items()} == {
        "text_encoder": "int8",
        "unet": "int8",
        "vae_encoder": "fp16",
        "vae_decoder": "int4",
    }
    assert resolve(found, NAMES, targets.get("openvino")) == found
    assert list(resolve(read("unet=int8"), NAMES, targets.get("openvino")).components) == ["unet"]


def test_what_the_model_or_the_target_does_not_have_is_refused(monkeypatch):
    target = targets.get("onnxruntime")
    with pytest.raises(
        UsageError, match=r"names 'transformer', which the model does not have \(it has: text_enc"
    ):
        resolve(read("transformer=int8"), NAMES, target)
    lesser = replace(
        target.requirements,
        weight_formats=frozenset({"int8", "blocked int4"}),
        activations="",
        precisions=frozenset({"fp16"}),
    )
    monkeypatch.setattr(type(target), "requirements", lesser)
    with pytest.raises(
        UsageError, match=r"does not take nf4 weights \(it takes: int4, int8\).\nUse --quantize int4"
    ):
        resolve(read("nf4"), NAMES, target)
    with pytest.raises(UsageError, match="does not take bf16 precision"):
        resolve(read("unet=int8,vae=bf16"), NAMES, target)


def test_a_target_that_needs_options_gets_them_and_refuses_others():
    target = targets.get("tensorrt")
    found = resolve(read("int4:group=32"), NAMES, target)
    assert found.components["unet"].options["positive"] is True
    assert found.components["unet"].options["group"] == 32
    assert resolve(found, NAMES, target) == found
    with pytest.raises(
        UsageError, match=r"'tensorrt' does not take int8 with asymmetric=True \(it takes: False"
    ):
        resolve(read("unet=int8:asymmetric"), NAMES, target)


def test_a_method_goes_to_every_int4_that_names_none(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(
        '[components.unet]\nscheme="int8"\n[[components.unet.weights]]\nmatch="a.*"\nscheme="int4"\n'
        '[components.vae]\nscheme="int4"\noptions={method="awq"}\n',
        encoding="utf-8",
    )
    found = with_method(load(file), "gptq")
    assert found.components["unet"].scheme == "int8"
    assert found.components["unet"].weights[0].options["method"] == "gptq"
    assert found.components["vae"].options["method"] == "awq"
    assert with_method(read("int4"), "awq") == read("int4:method=awq")
    with pytest.raises(UsageError, match=r"--quantize has none \(it has: int8, fp16\)"):
        with_method(read("int8,vae=fp16"), "awq")


def test_a_method_is_for_products_on_targets_that_take_it():
    resolved = resolve(read("unet=int4:method=gptq"), NAMES, targets.get("openvino"))
    choice = Choice(resolved.components["unet"])
    assert choice.methods == {"gptq"} and not Choice(read("int4").components["*"]).methods
    assert choice.decide("a", LINEAR).label == "int4:group=64,method=gptq"
    conv = choice.decide("a", Layout("conv", (64, 64, 3, 3), 0))
    assert (conv.label, conv.method, conv.note) == ("int4:group=64", "", "no gptq: a convolution")
    for name in ("onnxruntime", "tensorrt"):
        with pytest.raises(
            UsageError, match=rf"'{name}' does not take int4 with method=gptq \(it takes: none"
        ):
            resolve(read("unet=int4:method=gptq"), NAMES, targets.get(name))


def test_the_first_rule_that_matches_decides(tmp_path):
    file = tmp_path / "r.toml"
    file.write_text(
        '[components.unet]\nscheme="int4"\n'
        '[[components.unet.weights]]\nmatch="a.*"\nscheme="none"\n'
        '[[components.unet.weights]]\nmatch="*.b"\nscheme="int8"\n',
        encoding="utf-8",
    )
    choice = Choice(resolve(load(file), NAMES, targets.get("openvino")).components["unet"])
    assert choice.label == "int4 and 2 rules" and choice and choice.precision is None
    assert choice.decide("a.b", LINEAR) is None
    assert choice.decide("c.b", LINEAR).label == "int8"
    assert choice.decide("c.c", LINEAR).label == "int4:group=64"


def test_a_precision_in_place_of_a_scheme():
    whether = {
        text: Choice(read(text).components["*"]).compressed for text in ("int4", "int8-activations", "fp16")
    }
    assert whether == {"int4": True, "int8-activations": False, "fp16": False} and not Choice(None).compressed
    choice = Choice(read("fp16").components["*"])
    assert (choice.precision, choice.label, bool(choice)) == ("fp16", "", False)
    assert choice.decide("a", LINEAR) is None
    assert not Choice(None) and Choice(None).precision is None


@pytest.mark.parametrize("scheme", recipes.scheme_table.SCHEMES)
def test_schemes_and_their_options_are_described(scheme):
    found = recipes.scheme_table.get(scheme)
    assert found.name == scheme
    page = (Path(__file__).resolve().parents[3] / "docs" / "quantization.md").read_text(encoding="utf-8")
    assert f"`{scheme}`" in page
    for option in found.options.__dataclass_fields__:
        assert f"{option}:" in found.options.__doc__
        assert re.search(rf"`({scheme}:)?{option}\b", page), option
