"""A training loop of one's own: a small transformer on four ranks, beside plain PyTorch.

    torchrun --nproc-per-node 4 examples/own_loop.py

Two ranks hold the stages (P=2), two stages each (V=2); over two more the parameters are sharded
(FSDP). The last line trains the same model with plain PyTorch, for comparison.
"""

import tempfile
from copy import deepcopy
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import zeropp
from zeropp import checkpoint

WORDS, WIDTH, LENGTH, STEPS = 64, 32, 16, 4


class Layer(nn.Module):
    """A layer that sees only what came before."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(WIDTH, 4, 128, dropout=0.0, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[samples, tokens, width] -> the same."""
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        out: torch.Tensor = self.layer(x, src_mask=mask, is_causal=True)
        return out


def loss_fn(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The sum over tokens; the pipeline divides by their number over all ranks."""
    return nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum")


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sixteen sequences and the words that come next."""
    generator = torch.Generator().manual_seed(step)
    start = torch.randint(WORDS, (16, 1), generator=generator)
    words = (start + 3 * torch.arange(LENGTH + 1)) % WORDS
    return words[:, :-1], words[:, 1:]


def plainly(model: nn.Module) -> list[float]:
    """The losses of the same model, batches and optimizer without a pipeline."""
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=1e-2), []
    for step in range(STEPS):
        inputs, targets = batch(step)
        loss = loss_fn(model(inputs), targets) / targets.numel()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def main() -> None:
    """Train, save, and look whether it was right."""
    dist.init_process_group("gloo")  # nccl on GPUs
    torch.manual_seed(0)
    blocks = [nn.Embedding(WORDS, WIDTH), *(Layer() for _ in range(4)), nn.Linear(WIDTH, WORDS)]
    plain = deepcopy(nn.Sequential(*blocks))
    plan = zeropp.Plan(pp_size=2, num_chunks=2, num_microbatches=4, dp_shard=2)
    pipe = zeropp.pipeline(blocks, loss_fn, plan)
    optimizer = torch.optim.AdamW(pipe.parameters(), lr=1e-2)
    losses = []
    for step in range(STEPS):
        inputs, targets = (part.chunk(2)[zeropp.data_rank(pipe.mesh)] for part in batch(step))
        out = pipe.step((inputs, targets))  # this rank's half; the loss is that of both halves
        pipe.clip_grad_norm_(1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(out.loss))
    folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(folder)
    checkpoint.save(Path(folder[0]), pipe, optimizer, step=STEPS)  # any other layout can load it
    if dist.get_rank() == 0:
        print("layout  P=2, V=2, 2 data-parallel ranks; saved after step", STEPS)
        print("ZeroPP ", *(f"{loss:.4f}" for loss in losses))
        print("PyTorch", *(f"{loss:.4f}" for loss in plainly(plain)))
    pipe.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
