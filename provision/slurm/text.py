"""The job file's shell, piece by piece; render.py fills in what is ``@name@``.

What it rests on: https://slurm.schedmd.com/sbatch.html, https://slurm.schedmd.com/srun.html.
"""

from __future__ import annotations

import re

_PLACE = re.compile(r"@([a-z_]+)@")


def fill(text: str, **values: object) -> str:
    """A piece with its values; KeyError for one that has none. Pure."""
    return _PLACE.sub(lambda match: str(values[match[1]]), text)


WHERE = """\
set -euo pipefail
: "${SLURM_JOB_ID:?submit this file with sbatch}"

# Both on a file system that every node sees.
export RUN=@run_dir@ # code, logs, results
export PYTHON=@python@
# Each attempt has its own logs, be it requeued or submitted again: node0/node.log, node0/ranks/ ...
attempt=${SLURM_RESTART_COUNT:-0}
while [ -e "$RUN/attempt-$attempt" ]; do attempt=$((attempt + 1)); done
export ATTEMPT=$RUN/attempt-$attempt
say() { echo "$(date '+%F %T') $*"; }"""

ENVIRONMENT = """\
# The shell that called sbatch must not reach into the environment of PYTHON.
unset PYTHONPATH PYTHONHOME
@exports@
# srun does not take over --cpus-per-task (Slurm 22.05 and later): without this, one CPU a node.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-${SLURM_CPUS_ON_NODE:-1}}\""""

CPUS = """\
export OMP_NUM_THREADS=$((${SLURM_CPUS_ON_NODE:-1} / @ranks@))
((OMP_NUM_THREADS > 0)) || OMP_NUM_THREADS=1"""

MEETING = """\
# Who takes part, in the order of their node ranks. (If scontrol fails, so does the job; inside of
# "export MASTER_ADDR=$(...)" nobody would notice.)
names=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
mapfile -t nodes <<<"$names"
export MASTER_ADDR=${nodes[0]} SECOND_ADDR=${nodes[1]:-}
@port@
for i in "${!nodes[@]}"; do mkdir -p "$ATTEMPT/node$i"; done
printf '%s\\n' "${nodes[@]}" >"$ATTEMPT/nodes"
echo "$SLURM_JOB_ID" >"$ATTEMPT/job"
say "job $SLURM_JOB_ID on ${nodes[*]}, meeting at $MASTER_ADDR:$MASTER_PORT"
say "logs: $ATTEMPT"/node*/node.log"""

JOB_PORT = """\
# From the job's id, so that two jobs on one node do not meet; below 32768, from where on the kernel
# takes ports for outgoing connections.
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 10000))"""

PAUSE = """\
# Time is nearly up: rank 0 looks for this file after each step. It saves a checkpoint together with
# the others, writes into the file which step that is, and all ranks end. (Slurm may send the signal
# a minute early: the trap comes first.)
rm -f "$RUN/pause"
trap 'woken=1; say "time is nearly up: asking the run to save"; : >"$RUN/pause"' USR1"""

CHECKS = """\
# Before any rank starts: is the environment the same on every node, are the GPUs, the model and the
# data there, and does every node reach the first one at that port?
# shellcheck disable=SC2016 # single quotes: the shell on each node fills in what is $...
srun --kill-on-bad-exit=0 bash -c '
    [ -x "$PYTHON" ] || { echo "$(hostname): no environment here: $PYTHON" >&2; exit 1; }
    exec "$PYTHON" "$RUN/node_checks.py" "$@"
' checks @words@"""

START = """\
# One rank that ends badly ends the step (--kill-on-bad-exit): the others would wait for it until
# the time limit. A node that is done waits for those that still save (--wait=0: for ever).
# shellcheck disable=SC2016 # single quotes: the shell on each node fills in what is $...
srun --kill-on-bad-exit=1 --wait=0 --output="$ATTEMPT/node%n/node.log" bash -c '
    set -euo pipefail
    cd "$RUN/code"
    export NODE_RANK=$SLURM_NODEID NNODES=$SLURM_JOB_NUM_NODES NPROC_PER_NODE=@ranks@
    export TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE="[rank \\${rank}] "
    export TORCH_EXTENSIONS_DIR=$ATTEMPT/node$SLURM_NODEID/torch_extensions
@card@\
    exec "$PYTHON" -m torch.distributed.run \\
        --nnodes "$SLURM_JOB_NUM_NODES" --node-rank "$SLURM_NODEID" \\
        @meeting@ \\
        --log-dir "$ATTEMPT/node$SLURM_NODEID/ranks" --tee 3 \\
        "$@"
' node "${program[@]}" &
srun=$!"""

CARD = """\
    # The network card on the way to the others: gloo else takes the address that the name of this
    # node stands for, often 127.0.1.1.
    peer=$MASTER_ADDR
    [ "$SLURM_NODEID" != 0 ] || peer=$SECOND_ADDR
    read -r address _ <<<"$(getent ahosts "$peer")"
    route=$(PATH=$PATH:/usr/sbin:/sbin ip -o route get "$address")
    card=${route##* dev } card=${card%% *}
    export GLOO_SOCKET_IFNAME="$card" NCCL_SOCKET_IFNAME="=$card"  # to NCCL, eth1 is eth10, too
"""

WAIT = """\
status=0
wait "$srun" || status=$?"""

WAIT_WOKEN = """\
# The trap ends "wait" early, with a status above 128: then that of srun itself is still to come.
while :; do
    woken=0 status=0
    wait "$srun" || status=$?
    ((woken && status > 128)) || break
done"""

REPORT = """\
# What became of every rank; of a failure, which came first, and the exception.
cause=0
"$PYTHON" "$RUN/job_end.py" "$ATTEMPT" @ranks@ "$status" || cause=$?"""

REPORT_ONLY = """\
# What became of every rank; of a failure, which came first, and the exception.
"$PYTHON" "$RUN/job_end.py" "$ATTEMPT" @ranks@ "$status" || true"""

AGAIN = """\
# Saved, or no rank is to blame and a node was lost (75): the same job once more, from the newest
# complete checkpoint.
if ((status == 0)) && [ -s "$RUN/pause" ]; then
    why="saved: $(<"$RUN/pause")" status=1
elif ((cause == 75)) && [ "$(squeue -h -j "$SLURM_JOB_ID" -o %T)" = RUNNING ]; then # not cancelled
    why="a node was lost"
else
    say "ended with exit code $status"
    exit "$status"
fi
if ((${SLURM_RESTART_COUNT:-0} >= @restarts@)); then
    say "$why; and restarted @restarts@ times already: not again"
    exit "$status"
fi
say "$why; back into the queue, to go on from there"
scontrol requeue "$SLURM_JOB_ID\""""

DONE = """\
say "ended with exit code $status"
exit "$status\""""
