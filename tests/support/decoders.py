"""Small decoders of transformers, and what transformers by itself makes of a batch."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy

import zeropp
from support.exactness import relative_error, valid, whole
from zeropp import Plan, hf
from zeropp.runtime.mesh import data_rank

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
_MOE = {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}

CONFIGS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "qwen3": ("qwen3", {"head_dim": 8, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": WINDOW}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "sliding_window": WINDOW}),
    "gemma2 capped": ("gemma2", {"head_dim": 8, "final_logit_softcapping": 0.1}),
    "gpt2": ("gpt2", _GPT2),
    "mixtral": ("mixtral", {"num_local_experts": 4}),
    "mixtral balanced": ("mixtral", {"num_local_experts": 4, **_EXPERTS}),
    "mixtral eager": ("mixtral", {"num_local_experts": 4, "experts_implementation": "eager"}),
    "qwen3-moe": ("qwen3_moe", _MOE),
    "qwen3-moe eager": ("qwen3_moe", {**_MOE, "experts_implementation": "eager"}),
    "qwen3-moe batched": ("qwen3_moe", {**_MOE, "experts_implementation": "batched_mm"}),
}


def decoder(name: str, **options: Any) -> Any:
    """A model of this name, the same each time, in training mode; in fp32 on the CPU."""
    kind, own = CONFIGS[name]
    sizes = own if kind == "gpt2" else {**_SIZES, **own}
    torch.manual_seed(0)
    config = transformers.CONFIG_MAPPING[kind](**sizes, **options)
    return transformers.AutoModelForCausalLM.from_config(config).train()


def folder_with_tokenizer(name: str, folder: Path, text: Iterable[str]) -> Path:
    """The same model as transformers saves it, with a tokenizer for such a text."""
    decoder(name).save_pretrained(folder, max_shard_size="40KB")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    library.decoder = tokenizers.decoders.Metaspace()
    special = ["<pad>", "<s>", "</s>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=special, show_progress=False
    )
    library.train_from_iterator(text, trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=library, eos_token="</s>")
    fast.save_pretrained(folder)
    return folder


def adapted(name: str) -> Any:
    """A model with adapters whose effect is not nothing, also of experts, and a trained head."""
    import peft

    bare = decoder(name)
    experts = {n.split(".", 3)[3] for n, p in bare.named_parameters() if p.dim() == 3}
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj", "v_proj", "down_proj"],
        target_parameters=sorted(experts) or None,
        modules_to_save=["lm_head"],
    )
    model = peft.get_peft_model(bare, config)
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


def errors(
    make: Callable[[], Any],
    plan: Plan,
    batch: tuple[Tensor, Tensor],
    where: Tensor | None = None,
    *,
    head_tokens: int | None = None,
    precision: MixedPrecisionPolicy | None = None,
) -> dict[str, float]:
    """Relative errors of the loss and of every gradient that this rank holds, in a pipeline.

    Args:
        make: gives the model, the same each time.
        plan: how it is laid over the ranks.
        batch: tokens and labels of all data-parallel ranks.
        where: positions of documents that are packed into rows.
        head_tokens: in a piece of the head; None: it is whole.
        precision: what blocks compute in.
    """
    ids, labels = batch
    loss, wanted = plain(make(), ids, labels, plan.num_microbatches * plan.dp_size, where)
    wanted = {key.removeprefix("base_model.model."): value for key, value in wanted.items()}
    model = make()
    blocks, options = hf.blocks(model, head_tokens=head_tokens), {"precision": precision}
    made = zeropp.pipeline(blocks, hf.loss(model), plan, tokens=hf.count_tokens, **options)
    with closing(made) as pipe:
        rank, size = data_rank(pipe.mesh), len(ids) // plan.dp_size
        own = slice(rank * size, (rank + 1) * size)
        named = {} if where is None else {"positions": where[own]}
        out = pipe.step((ids[own], labels[own], named))
        found = {"loss": abs(float(out.loss) - loss) / loss}
        tied = {name.split("hf.", 1)[1] for tie in pipe.ties for name in tie.others}
        for key, parameter in pipe.named_parameters():
            key = hf.hf_name(key)
            if not parameter.requires_grad:
                assert parameter.grad is None
            elif key in wanted:
                found[key] = relative_error(whole(parameter.grad), wanted[key])
            elif key not in tied:
                assert parameter.grad is None or not parameter.grad.any()
        assert len(found) > 1
    return found


_SMALL: Mapping[str, Any] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size", "vocab_size_per_layer_input"), VOCAB),
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "embed_dim", "dim", "emb_dim"), 32),
    **dict.fromkeys(("word_embed_proj_dim", "embedding_size", "attention_hidden_size"), 32),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "n_inner", "d_ff", "ffn_hidden_size"), 64),
    **dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim", "mlp_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), LAYERS),
    **dict.fromkeys(("decoder_layers", "encoder_layers"), LAYERS),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "attention_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_nope_head_dim", "qk_rope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 64),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("moe_shared_expert_intermediate_size", "shared_intermediate_size"), 16),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_groups", "n_shared_experts"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_nextn_predict_layers"), 1),
    **dict.fromkeys(("sliding_window", "attention_window_size"), WINDOW),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size"), 8),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("linear_num_key_heads", "mamba_n_groups", "n_groups"), 2),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "linear_key_head_dim"), 16),
    **dict.fromkeys(("linear_value_head_dim",), 16),
    **dict.fromkeys(("pad_token_id",), 0),
    **dict.fromkeys(("bos_token_id",), 1),
    **dict.fromkeys(("eos_token_id",), 2),
}


def small_config(kind: str) -> Any:
    """A configuration of a type of transformers, small, without dropout."""
    cls = transformers.CONFIG_MAPPING[kind]
    config = cls()
    own = {name: _SMALL[name] for name in config.to_dict() if name in _SMALL}
    if "kv_lora_rank" in own:  # as many heads for keys as for queries
        own["num_key_value_heads"] = own["num_attention_heads"]
    own |= {name: 0.0 for name, value in config.to_dict().items() if "drop" in name and value}
    return cls(**own)
