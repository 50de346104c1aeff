# What this host's facts depend on, read by sh alone: as long as the text is the same, the facts
# that deploy goes by are (hosts/mark.py says which). No Python starts for it.
#
# It is sent as one line, these comments left out, so every statement ends with a semicolon; login
# shells see it in single quotes, so it holds no quote of that kind, backslash or exclamation mark.
export LC_ALL=C;
echo ZEROFLEET-MARK;
echo "home $HOME";
grep -sH "" /proc/sys/kernel/random/boot_id /proc/sys/kernel/hostname /etc/machine-id
    /etc/os-release /proc/driver/nvidia/version /sys/class/infiniband/*/ports/*/state
    /sys/class/infiniband/*/ports/*/rate /sys/class/infiniband/*/ports/*/link_layer;
read -r found < /proc/meminfo; echo "$found";
while read -r name found; do
    case $name in Cpus_allowed_list:) echo "$name $found"; break;; esac;
done < /proc/self/status;
readlink /proc/self/ns/net /proc/self/ns/mnt /proc/self/ns/pid;
while IFS=: read -r number controllers path; do
    case "$number,$controllers," in
        0,,) root=/sys/fs/cgroup; names="cpu.max memory.max";;
        *,cpu,*) root=/sys/fs/cgroup/cpu; names="cpu.cfs_quota_us cpu.cfs_period_us";;
        *,memory,*) root=/sys/fs/cgroup/memory; names=memory.limit_in_bytes;;
        *) continue;;
    esac;
    while :; do
        for name in $names; do
            test -r "$root$path/$name" && read -r found < "$root$path/$name" && echo "$name $found";
        done;
        test "${path:-/}" = / && break;
        path=${path%/*};
    done;
done < /proc/self/cgroup;
echo /sys/bus/pci/devices/*;
for smi in nvidia-smi /usr/lib/wsl/lib/nvidia-smi; do
    command -v "$smi" > /dev/null || continue;
    "$smi" --format=csv,noheader --query-gpu=index,name,uuid,driver_version,memory.total,pci.bus_id,mig.mode.current,ecc.mode.current,pcie.link.gen.max,pcie.link.width.max 2>&1;
    echo "nvidia-smi $?";
    "$smi" nvlink -s 2>&1;
    break;
done;
set -- /etc/ld.so.cache /lib/ld-musl-*.so.1 /lib64/libc.so.6 /lib/*/libc.so.6
    /usr/lib64/libstdc++.so.6 /usr/lib/*/libstdc++.so.6 /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc;
IFS=:;
for folder in $PATH; do
    for name in nvidia-smi nvcc ldconfig python python3 python3.8 python3.9 python3.10 python3.11 python3.12 python3.13 python3.14 python3.15; do
        set -- "$@" "$folder/$name";
    done;
done;
unset IFS;
cd -P "$HOME/.zerofleet/current" 2> /dev/null && echo "current $PWD";
for site in lib/python3*/site-packages; do
    set -- "$@" "$site" "$site/torch" "$site/torch/version.py" "$site/torch/lib" "$site/deepspeed"
        "$site/deepspeed/ops";
done;
stat -L -c "%n %f %d:%i %s %y %z" -- complete.json pyvenv.cfg bin/python "$@" 2> /dev/null;
echo ZEROFLEET-END
