from __future__ import annotations

from pathlib import Path

import pytest

from artifacts.errors import UsageError
from bench import prompts
from bench.reference.shape_scenes import split
from compiler.evaluation import evaluation
from compiler.source import local_folder


def test_lines_that_are_not_blank(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text("\ufeffein größerer Kreis\n\n  b  \n", encoding="utf-8")
    assert prompts.read(file) == ("ein größerer Kreis", "b")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read: No such file"), (b"\n \n", "holds no prompt"), (b"\xff\xfe\xfa", "not UTF-8")],
)
def test_files_without_prompts(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "p.txt").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        prompts.read(tmp_path / "p.txt")


def test_the_built_in_model_draws_what_it_was_not_trained_on() -> None:
    stated = evaluation(local_folder("shapes"))
    assert len(stated.prompts) == 8 and stated.guidance == 3.0
    assert set(stated.prompts) <= {caption.text for caption in split()[1]}


def test_captions_are_read_only_where_all_are_captions() -> None:
    texts = [caption.text for caption in split()[0][:3]]
    assert prompts.captions(texts) == split()[0][:3]
    assert prompts.captions([*texts, "a cat"]) is None
