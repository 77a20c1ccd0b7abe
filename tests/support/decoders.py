"""Small decoders of transformers, and what transformers by itself makes of a batch."""

from collections.abc import Mapping
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from support.exactness import valid

VOCAB, LAYERS, WINDOW = 97, 4, 4
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": LAYERS, "n_head": 4, "n_positions": 64}
_GPT2 |= {"bos_token_id": 1, "eos_token_id": 2, "resid_pdrop": 0, "embd_pdrop": 0, "attn_pdrop": 0}
_EXPERTS = {"output_router_logits": True, "router_aux_loss_coef": 0.5}

CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "sliding_window": WINDOW}),
    "gpt2": ("gpt2", _GPT2),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "mixtral balanced": ("mixtral", {"num_local_experts": 4, **_EXPERTS}),
    "qwen3-moe": (
        "qwen3_moe",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
}


def decoder(name: str, **options: Any) -> Any:
    """A model of this name, the same each time, in training mode; in fp32 on the CPU."""
    kind, own = CONFIGS[name]
    sizes = own if kind == "gpt2" else {**_SIZES, **own}
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**sizes, **options)
    return transformers.AutoModelForCausalLM.from_config(config).train()


def adapted(name: str) -> Any:
    """A model with adapters whose effect is not nothing, and a trained head."""
    import peft

    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "v_proj", "down_proj"], modules_to_save=["lm_head"]
    )
    model = peft.get_peft_model(decoder(name), config)
    generator = torch.Generator().manual_seed(9)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


def tokens(samples: int, length: int = 11, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Tokens, and labels of which some do not count, as in rows that are padded."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (samples, length), generator=generator)
    labels = ids.clone()
    for row in range(samples):
        labels[row, length - row % 4 :] = -100
    return ids, labels


def packed(ids: Tensor) -> Tensor:
    """Positions of rows into which documents are packed."""
    place = torch.arange(ids.shape[1])
    cuts = [3 + row % 5 for row in range(ids.shape[0])]
    return torch.stack([torch.where(place < cut, place, place - cut) for cut in cuts])


def plain(
    model: nn.Module, ids: Tensor, labels: Tensor, parts: int, positions: Tensor | None = None
) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients by transformers, micro-batch by micro-batch, each weighted by tokens."""
    total, loss = valid(labels[:, 1:]), 0.0
    cut = [None] * parts if positions is None else positions.tensor_split(parts)
    for one, own, where in zip(
        ids.tensor_split(parts), labels.tensor_split(parts), cut, strict=True
    ):
        given = {} if where is None else {"position_ids": where}
        out = model(input_ids=one, labels=own, use_cache=False, **given)
        (out.loss * valid(own[:, 1:]) / total).backward()
        loss += float(out.loss.detach()) * valid(own[:, 1:]) / total
    named = model.named_parameters()
    return loss, {name: p.grad for name, p in named if p.grad is not None}
