#!/bin/sh
# One node of a run, started by hand on each: [zero_stage] [num_nodes] [gpus_per_node] [master_addr]
# [master_port], or the environment variables of docs/runs.md. NODE_RANK says which node this is.
exec "$(dirname -- "$0")/../zf" node "$@" --launcher deepspeed
