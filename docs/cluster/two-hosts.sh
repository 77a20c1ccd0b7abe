#!/bin/sh
# On each of two hosts, with HOST the first one's name or address. The folder of runs must be on a
# disk that both see. A host that fails is waited for: start this there again, and the run goes on
# from its last checkpoint.

# else torchrun does not tell a host that comes later where to meet the others
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
exec torchrun --nnodes 2 --nproc-per-node "${RANKS:-8}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HOST:29500" --rdzv-id zeropp \
    --rdzv-conf read_timeout=600 --no-python \
    zeropp train --config train.toml --run.resume auto
