#!/bin/sh
# A program on two hosts, of which this machine plays both:
#
#     sh examples/two_hosts.sh examples/own_loop.py
#
# On real hosts run one of the two lines on each, with FIRST the name or address of either.
set -eu
FIRST="${FIRST:-localhost}" PORT="${PORT:-29511}"

host() {
    torchrun --nnodes 2 --nproc-per-node 2 --rdzv-id example --rdzv-backend c10d \
        --rdzv-endpoint "$FIRST:$PORT" "$@"
}

host "$1" &
other=$!
host "$1"
wait "$other"
