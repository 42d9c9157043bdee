"""Runs in the environment of optimum-intel: writes the tokenizer graphs that openvino_genai reads.

python add_tokenizer_graphs.py ARTIFACT: for each tokenizer*/ folder, openvino_tokenizer.xml and its
detokenizer.
"""

import sys
from pathlib import Path

import openvino
from openvino_tokenizers import convert_tokenizer  # type: ignore[import-not-found, unused-ignore]
from transformers import AutoTokenizer

if __name__ == "__main__":
    for folder in sorted(Path(sys.argv[1]).glob("tokenizer*")):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        graphs = convert_tokenizer(tokenizer, with_detokenizer=True)
        for graph, name in zip(graphs, ("openvino_tokenizer.xml", "openvino_detokenizer.xml"), strict=True):
            openvino.save_model(graph, folder / name)
