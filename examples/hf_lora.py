"""LoRA on a decoder of Hugging Face transformers, unmodified, on two ranks.

    torchrun --nproc-per-node 2 examples/hf_lora.py

The model is a small Llama with weights drawn at random, so that nothing is downloaded; a folder
with a real one, such as SmolLM2-135M, takes its place as it is: FOLDER as the first argument.
"""

import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils.logging import disable_progress_bar

import zeropp
from zeropp import hf

STEPS = 5


def small_llama(folder: Path) -> None:
    """Four layers, in the form of a model of the hub."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def train(source: Path, target: Path, tokens: torch.Tensor) -> list[float]:
    """The losses; the adapters go to `target`, in peft's form."""
    model = hf.adapt(hf.on_meta(source), rank=8, alpha=16)
    plan = zeropp.Plan(pp_size=2, num_chunks=2, num_microbatches=4)
    pipe = zeropp.pipeline(
        hf.blocks(model), hf.loss(model), plan, tokens=hf.count_tokens, load=hf.load(source, model)
    )
    optimizer, losses = torch.optim.AdamW(pipe.parameters(), lr=1e-2), []
    for _ in range(STEPS):
        losses.append(float(pipe.step((tokens, tokens)).loss))
        optimizer.step()
        optimizer.zero_grad()
    hf.save(pipe, model, target)
    losses.append(float(pipe.eval((tokens, tokens)).loss))
    pipe.close()
    return losses


def main() -> None:
    """Train adapters with the pipeline, and read them with transformers and peft alone."""
    disable_progress_bar()
    dist.init_process_group("gloo")  # nccl on GPUs
    first = dist.get_rank() == 0
    folder = [tempfile.mkdtemp() if first else ""]
    dist.broadcast_object_list(folder)
    source = Path(sys.argv[1]) if sys.argv[1:] else Path(folder[0], "model")
    if first and not sys.argv[1:]:
        small_llama(source)
    dist.barrier()
    tokens = torch.arange(8 * 32).view(8, 32) * 5 % 256
    *losses, after = train(source, Path(folder[0], "adapters"), tokens)
    if first:
        model = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(source), Path(folder[0], "adapters")
        )
        with torch.no_grad():
            read = float(model(input_ids=tokens, labels=tokens).loss)
        print("losses in the pipeline:   ", *(f"{loss:.4f}" for loss in losses), f"{after:.4f}")
        print(f"transformers, from files:  {read:.4f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
