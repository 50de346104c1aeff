#!/bin/sh
# PID 1 of one host of cluster.py, in namespaces of its own: makes its disk, then serves SSH.
#
#   host.sh NAME ADDRESS DISK HOME LOWER BOOT
#
# DISK   folder of this host's own: key, machine-id, authorized_keys, hosts; BOOT below it is its disk
# HOME   home folder of the one user (root); LOWER, if any: folders (joined by :) that it begins with
#        Where there is a folder "shared" beside DISK, it is the home of every host.
set -eu
name=$1 address=$2 disk=$3 home=$4 lower=$5 boot=$6
mkdir -p "$boot/upper" "$boot/work" "$boot/home" "$boot/homework" "$disk/root" "$disk/empty"
cd "$disk/root"
# What is installed on the machine is installed here; what is written here stays here.
mount -t overlay overlay -o "lowerdir=/,upperdir=$boot/upper,workdir=$boot/work" .
cd "$disk/root" # the mounted one
hostname "$name"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    : >"dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777,size=2g tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
# What this machine has left of its memory depends on the tests that run beside: not here.
sed 's|^MemAvailable:.*|MemAvailable:   16777216 kB|' /proc/meminfo >run/meminfo
mount --bind run/meminfo proc/meminfo
mkdir -p run/sshd run/old ".$home"
if [ -d "$disk/../shared" ]; then
    mount --bind "$disk/../shared" ".$home"
else
    mount -t overlay overlay \
        -o "lowerdir=${lower:+$lower:}$disk/empty,upperdir=$boot/home,workdir=$boot/homework" ".$home"
fi
cat "$disk/machine-id" >etc/machine-id
cat "$disk/hosts" >etc/hosts
echo "$name" >etc/hostname
rm -f etc/ssh/ssh_host_* etc/nologin root/.bashrc root/.profile
sed "s|^root:.*|root:x:0:0:root:$home:/bin/bash|" etc/passwd >run/edited
cat run/edited >etc/passwd
sed 's|^root:[^:]*:|root:*:|' etc/shadow >run/edited # some images lock root, keys included
cat run/edited >etc/shadow
install -m 600 "$disk/key" run/sshd/key
install -m 600 "$disk/authorized_keys" run/sshd/authorized_keys
cat >run/sshd/config <<X
ListenAddress $address:22
HostKey /run/sshd/key
AuthorizedKeysFile /run/sshd/authorized_keys
StrictModes no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
MaxStartups 100:30:200
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
PidFile none
X
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
read -r _ # a line comes when the network interface is there
ip link set lo up
ip addr add "$address/24" dev eth0
ip link set eth0 up
sshd=$(PATH=$PATH:/usr/sbin:/sbin command -v sshd)
"$sshd" -D -e -f /run/sshd/config </dev/null &
while :; do # orphans are PID 1's to collect
    wait "$!" && code=0 || code=$?
    [ "$code" -gt 128 ] || exit "$code"
done
