#!/bin/sh
# Runs as pid 1 of the test guest (guest_test.sh boots it): asks the kernel for everything that
# containers need, one PASS or FAIL line each. /dev/vda is this script, /dev/vdb the tools.
t() {
  name=$1; shift
  if out=$("$@" 2>&1); then echo "PASS $name"; else echo "FAIL $name: $(echo "$out" | tail -n 3 | tr '\n' ' ')"; fi
}
have_fs() { grep -qw "$1" /proc/filesystems; }
# By absolute path: busybox's chroot would run its own applet of the same name.
in_tools() { chroot /run/tools "$@"; }

mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /tmp; mkdir -p /dev/pts /dev/mqueue /dev/shm /run/tools /run/lock
echo "INFO kernel $(uname -r), up $(cut -d' ' -f1 /proc/uptime) s"
grep -E '^(MemTotal|MemFree|Slab|Percpu|KernelStack|PageTables)' /proc/meminfo | sed 's/^/INFO /'
dmesg | grep -E 'Memory: |Freeing unused kernel image' | sed 's/^/INFO /'
dmesg | grep -q 'PVH' && echo "INFO booted by PVH"

t 'release ends in -wyvern' sh -c 'uname -r | grep -q -- -wyvern$'
t 'root is EROFS, dax=always' grep -qE '^/dev/root / erofs ro,.*dax=always' /proc/mounts
# EROFS marks a mapping for huge pages only when it is DAX.
t 'programs are mapped by DAX' sh -c 'sed -n "\#/bin/busybox\$#,/VmFlags/p" /proc/self/smaps | grep -q "VmFlags:.* hg"'
t 'no DAX refused for a file' sh -c '! dmesg | grep -qi "dax.*unsupported\|turning off dax\|not supported.*dax"'
t '/dev/console before init' test -c /dev/console
t '/proc/config.gz' sh -c 'zcat /proc/config.gz | grep -q ^CONFIG_PVH=y'
for fs in ext4 overlay tmpfs fuse virtiofs squashfs mqueue hugetlbfs devtmpfs cgroup2 bpf binfmt_misc; do
  t "file system $fs" have_fs $fs
done
t 'devpts' mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
t 'mqueue' mount -t mqueue mqueue /dev/mqueue
t 'binfmt_misc' mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
t 'bpffs' mount -t bpf bpf /sys/fs/bpf
t 'tracefs with kprobes' sh -c 'mount -t tracefs t /sys/kernel/tracing && test -e /sys/kernel/tracing/kprobe_events'
t 'cgroup v2' mount -t cgroup2 -o nsdelegate none /sys/fs/cgroup
for controller in cpuset cpu io memory hugetlb pids; do
  t "controller $controller" grep -qw $controller /sys/fs/cgroup/cgroup.controllers
done
for ns in cgroup ipc mnt net pid time user uts; do t "namespace $ns" test -e /proc/self/ns/$ns; done
t 'PSI' cat /proc/pressure/memory
t 'BTF' test -s /sys/kernel/btf/vmlinux
t 'BPF JIT on' grep -qx 1 /proc/sys/net/core/bpf_jit_enable
t 'io_uring' test -e /proc/sys/kernel/io_uring_disabled
t 'seccomp filter' grep -q errno /proc/sys/kernel/seccomp/actions_avail
t 'core dumps' test -e /proc/sys/kernel/core_pattern
# The kernel starts with THP off below 512 MiB; who wants it (the agent) writes it.
t 'THP can be madvise' sh -c 'cd /sys/kernel/mm/transparent_hugepage && echo madvise >enabled && grep -qF "[madvise]" enabled'
t 'landlock' sh -c 'dmesg | grep -q "landlock: Up and running"'
t 'vsock' test -c /dev/vsock
t 'old vsyscall page' grep -q vsyscall /proc/self/maps
t 'no modules' test ! -e /proc/modules
t 'no vsock loopback' sh -c '! zcat /proc/config.gz | grep -q VSOCKETS_LOOPBACK=y'
t 'hardware random' grep -q virtio_rng /sys/class/misc/hw_random/rng_current
t 'fuse device' test -c /dev/fuse
t 'tun device' sh -c ': 3<>/dev/net/tun'
t 'loop control' test -c /dev/loop-control
t 'swap' test -e /proc/swaps
t 'IPv6' test -e /proc/net/if_inet6

if mount -t squashfs -o ro /dev/vdb /run/tools; then
  mount -t tmpfs tmpfs /run/tools/run; mount -t tmpfs tmpfs /run/tools/tmp
  mount --bind /dev /run/tools/dev; mount --bind /proc /run/tools/proc; mount --bind /sys /run/tools/sys
  ip link set lo up

  t 'link bridge' in_tools /sbin/ip link add br0 type bridge vlan_filtering 1
  t 'link veth' in_tools /sbin/ip link add v0 type veth peer name v1
  t 'link dummy' in_tools /sbin/ip link add d0 type dummy
  t 'link macvlan' in_tools /sbin/ip link add m0 link d0 type macvlan
  t 'link ipvlan' in_tools /sbin/ip link add i0 link v0 type ipvlan
  t 'link vlan' in_tools /sbin/ip link add link d0 name d0.7 type vlan id 7
  t 'link vxlan' in_tools /sbin/ip link add x0 type vxlan id 7 dstport 4789 dev d0
  t 'link tun' in_tools /sbin/ip tuntap add dev t0 mode tun
  t 'address and rule' sh -c 'chroot /run/tools /sbin/ip addr add 10.9.0.1/24 dev br0 && chroot /run/tools /sbin/ip rule add fwmark 1 table 100'
  t 'tc htb, netem, clsact' sh -c 'chroot /run/tools /sbin/tc qdisc add dev d0 root handle 1: htb && chroot /run/tools /sbin/tc qdisc add dev v0 root netem delay 1ms && chroot /run/tools /sbin/tc qdisc add dev v1 clsact'
  cat >/run/tools/tmp/rules <<'NFT'
table inet t {
  set s { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
  chain in { type filter hook input priority 0; ct state established accept; ip saddr @s counter accept
    tcp dport 22 limit rate 3/second log prefix "x" reject; fib saddr type local accept; }
}
table netdev e {
  chain i { type filter hook ingress device "lo" priority 0; counter; }
}
table ip n {
  chain post { type nat hook postrouting priority 100; oifname "d0" masquerade; }
  chain pre { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.9.0.2:8080; tcp dport 81 redirect to :82; }
}
NFT
  t 'nft: inet filter, sets, NAT' in_tools nft -f /tmp/rules
  for tables in iptables-nft iptables-legacy ip6tables-legacy; do
    t "$tables: NAT masquerade" in_tools $tables -t nat -A POSTROUTING -o d0 -j MASQUERADE
    t "$tables: filter" in_tools $tables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -m comment --comment x -j ACCEPT
    t "$tables: matches" in_tools $tables -t nat -A OUTPUT -p tcp -m multiport --dports 80,81 -m owner --uid-owner 7 -m statistic --mode random --probability 0.5 -j REDIRECT --to-ports 7
    t "$tables: addrtype" in_tools $tables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j ACCEPT
    t "$tables: reject, mark" sh -c "chroot /run/tools $tables -A INPUT -p tcp --dport 9 -j REJECT && chroot /run/tools $tables -t mangle -A PREROUTING -j MARK --set-mark 1"
  done
  t 'ipset' in_tools ipset create s hash:ip
  t 'iptables with ipset' in_tools iptables-legacy -A INPUT -m set --match-set s src -j DROP
  t 'conntrack table' test -r /proc/net/nf_conntrack
  t 'loop, ext4' sh -c 'e=/run/tools/tmp/e; truncate -s 16M $e && chroot /run/tools sh -c "/sbin/mke2fs -q -t ext4 -F /tmp/e; mkdir /tmp/m; /bin/mount -o loop /tmp/e /tmp/m" && echo x >/run/tools/tmp/m/f && umount /run/tools/tmp/m'
else
  echo "FAIL tools disk"
fi
mkdir -p /tmp/l1 /tmp/l2 /tmp/up /tmp/work /tmp/ov
t 'overlay' sh -c 'mount -t overlay o -o lowerdir=/tmp/l1:/tmp/l2,upperdir=/tmp/up,workdir=/tmp/work /tmp/ov && echo x >/tmp/ov/f && test -e /tmp/up/f'

# crun makes a container of the image's own busybox: namespaces, cgroup with BPF devices, seccomp.
mkdir -p /tmp/c/rootfs && cd /tmp/c && crun spec && sed -i \
  -e 's/"terminal": true/"terminal": false/' -e '/"args"/,/]/c "args": ["/bin/sh","-c","id -u; cat /proc/1/cgroup; hostname"],' config.json
mkdir rootfs/bin rootfs/proc rootfs/sys rootfs/dev && cp /bin/busybox rootfs/bin/ && ln -s busybox rootfs/bin/sh
for a in id cat hostname; do ln -s busybox rootfs/bin/$a; done
t 'crun runs a container' sh -c 'cd /tmp/c && crun --cgroup-manager=cgroupfs run c1 | grep -q crun'
t 'crun: memory, pids, cpu limits' sh -c 'cd /tmp/c && crun --cgroup-manager=cgroupfs create c2 && crun update --memory 64000000 --pids-limit 64 --cpu-quota 50000 c2 && crun start c2 && sleep 1; crun delete -f c2'

t 'second CPU comes online' sh -c 'echo 1 >/sys/devices/system/cpu/cpu1/online && test "$(nproc)" = 2'
t 'and goes' sh -c 'echo 0 >/sys/devices/system/cpu/cpu1/online'
t 'virtio-mem grew the guest' sh -c 'for i in 1 2 3 4 5 6 7 8 9 10; do test $(awk "/MemTotal/{print \$2}" /proc/meminfo) -gt 380000 && exit 0; sleep 0.3; done; exit 1'
t 'every applet link works' sh -c 'busybox --list >/tmp/list; for f in /bin/* /sbin/*; do [ "$(readlink $f)" = busybox ] || [ "$(readlink $f)" = ../bin/busybox ] || continue; grep -qx ${f##*/} /tmp/list || { echo $f; exit 1; }; done'
t 'root is read-only' sh -c '! touch /x'
dmesg | grep -iE 'error|fail|warn|unable|bug:' | sed 's/^/INFO dmesg: /'
echo "INFO done at $(cut -d' ' -f1 /proc/uptime) s"
echo END
# The end of pid 1 is a panic; pvpanic has to tell QEMU.
exit 0
