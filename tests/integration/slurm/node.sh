#!/bin/sh
# PID 1 of one machine of bed.py, in namespaces of its own; all machines see one file system.
#
#   node.sh NAME FOLDER     the head: munged and slurmctld; any other: slurmd
#
# FOLDER holds slurm.conf and hosts; key, state, spool and logs go below it
set -eu
name=$1 folder=$2
export SLURM_CONF="$folder/slurm.conf" PATH="$PATH:/usr/sbin:/sbin"
mount -t proc proc /proc
mount --bind "$folder/hosts" /etc/hosts
hostname "$name"
ip link set lo up
if [ "$name" = head ]; then
    munged --foreground --force --key-file="$folder/munge.key" --socket=/run/munge/munge.socket.2 \
        --pid-file=/run/munge/pid --log-file="$folder/log/munged" --seed-file=/run/munge/seed &
    until [ -S /run/munge/munge.socket.2 ]; do sleep 0.05; done
    slurmctld -D &
else
    read -r address # comes when the network interface is there
    ip addr add "$address/24" dev eth0
    ip link set eth0 up
    slurmd -D &
fi
while :; do # orphans are PID 1's to collect
    wait "$!" && code=0 || code=$?
    [ "$code" -gt 128 ] || exit "$code"
done
