#!/bin/sh
# On each of two hosts, with HOST the first one's name or address. The folder of runs must be on a
# disk that both see; a host that fails is waited for and the run goes on from its last checkpoint.
exec torchrun --nnodes 2 --nproc-per-node "${RANKS:-8}" --max-restarts 3 \
    --rdzv-backend c10d --rdzv-endpoint "$HOST:29500" --rdzv-id zeropp \
    --no-python zeropp train --config train.toml --run.resume auto
