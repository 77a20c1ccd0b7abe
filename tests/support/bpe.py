"""A small BPE tokenizer, and a chat template for it."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TEMPLATE = (
    "<|start|>{% for message in messages %}<{{ message.role }}>{% if message.role == 'assistant' %}"
    "{{ message.content }}<|end|>{% else %}{{ message.content }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def trained(begin: bool) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train([__file__], trainer)
    if begin:
        pair = ("<|start|>", 1)
        made.post_processor = processors.TemplateProcessing(
            single="<|start|> $A", special_tokens=[pair]
        )
    return made
