"""A small BPE tokenizer in a file, and as the tokenizer of a model's folder."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from support.bpe import TEMPLATE, trained


@pytest.fixture(scope="session")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    trained(begin=False).save(str(path))
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    made = PreTrainedTokenizerFast(
        tokenizer_object=trained(begin=True), bos_token="<|start|>", eos_token="<|end|>"
    )
    made.chat_template = TEMPLATE
    made.save_pretrained(folder)
    return folder
