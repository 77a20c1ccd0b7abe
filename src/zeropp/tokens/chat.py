"""Chats by a model's own template, with the loss on what the assistant says."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from zeropp.tokens.files import Encoded

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")  # as transformers looks for it


def encode_chat(tokenizer: Any, messages: list[dict[str, Any]]) -> Encoded:
    """Of a tokenizer of transformers that has a chat template.

    Raises:
        ValueError: the template refuses the messages, or does not tell what the assistant says.
    """
    from jinja2 import TemplateError

    try:
        if _MARKED.search(tokenizer.chat_template):
            return _marked(tokenizer, messages)
        return _compared(tokenizer, messages)
    except (TemplateError, TypeError) as error:
        raise ValueError(f"the chat template refuses its messages ({error})") from error


def _marked(tokenizer: Any, messages: list[dict[str, Any]]) -> Encoded:
    """The template says itself what is generated."""
    found = tokenizer.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return Encoded(
        np.array(found["input_ids"], np.uint32), np.array(found["assistant_masks"], np.bool_)
    )


def _compared(tokenizer: Any, messages: list[dict[str, Any]]) -> Encoded:
    """What an answer adds to the prompt before it."""
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts, stops = np.array(found["offset_mapping"]).reshape(-1, 2).T
    learned = np.zeros(len(starts), np.bool_)
    for start, stop in _answers(tokenizer, messages, text):
        learned |= (start < stops) & (starts < stop)
    return Encoded(np.array(found["input_ids"], np.uint32), learned)


def _answers(
    tokenizer: Any, messages: list[dict[str, Any]], text: str
) -> Iterator[tuple[int, int]]:
    """From where to where in the text the assistant speaks."""
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            prompt = tokenizer.apply_chat_template(
                messages[:number], tokenize=False, add_generation_prompt=True
            )
            upto = tokenizer.apply_chat_template(messages[: number + 1], tokenize=False)
            if not (upto.startswith(prompt) and text.startswith(upto)):
                raise ValueError(
                    "the chat template changes what was said before, so that answers cannot be "
                    "told from prompts; mark them in it with {% generation %}, or give one answer"
                )
            yield len(prompt), len(upto)
