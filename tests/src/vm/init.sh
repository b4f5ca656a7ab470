#!/bin/busybox sh
# The first process of a test guest: makes the guest look like a node, runs /command, hands back what it left in
# /results, and powers off. Ports: ttyS0 the console, ttyS1 what the command prints, ttyS2 the results as a tar archive.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

if [ "$1" != moved ]; then
    /bin/busybox --install -s /bin
    # pivot_root, which container runtimes use, does not work from the root that the kernel unpacked: move to a mount.
    mkdir -p /.root
    mount --bind / /.root
    cd /.root
    mount --move . /
    exec chroot . /init moved
fi

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs securityfs /sys/kernel/security
mount -t tracefs tracefs /sys/kernel/tracing
mount -t debugfs debugfs /sys/kernel/debug
for folder in /tmp /run; do mount -t tmpfs tmpfs $folder; done
mount --make-rshared /
ln -s /proc/self/fd /dev/fd
ln -s /proc/mounts /etc/mtab
while read -r module; do insmod "$module" || echo "holdfast-vm: cannot load $module"; done </etc/modules
ip link set lo up
hostname "$(cat /etc/hostname)"
for controller in $(cat /sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null
done

stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
mkdir -p /results /root
cut -d ' ' -f 1 /proc/uptime >/results/.boot
echo "holdfast-vm: running"
cd /root
sh /command >/dev/ttyS1 2>&1 </dev/null
code=$?
echo "holdfast-vm: exit $code"
echo "$code" >/results/.exit
tar -c -C /results . >/dev/ttyS2
sync
poweroff -f
