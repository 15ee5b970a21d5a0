"""User namespaces (Kubernetes: hostUsers: false): the container's ids are others of the host's, and on the disk they are those that runc leaves there.

Scenario 63. runc is the oracle; where mounts are id-mapped, which Debian 13's cannot, runc without a user namespace: that is what they are for.
"""

import os
import pathlib

import pytest

from harness.cri import POD, Pod
from harness.ctr import BUSYBOX, WYVERN, call, ctr, unique, wait_until
from harness.pods import OURS, cri  # noqa: F401 (a fixture)

pytestmark = [pytest.mark.wyvern_only, pytest.mark.leaves_nothing(20)]

FIRST = 100000
USERS = ["--uidmap", f"0:{FIRST}:65536", "--gidmap", f"0:{FIRST}:65536"]
RUNTIMES = {"wyvern": ["--runtime", WYVERN], "runc": ["--runtime", "io.containerd.runc.v2"]}


def owners(directory: pathlib.Path) -> list:
    """Of everything below it, as the host has it."""
    return sorted((str(path.relative_to(directory)), path.lstat().st_uid, path.lstat().st_gid, oct(path.lstat().st_mode))
                  for path in directory.rglob("*"))


def run(runtime: str, script: str, *flags, users=USERS):
    """Exit code, output and errors of `sh -c script`."""
    done = call(["ctr", "run", "--rm", *RUNTIMES[runtime], *users, *flags, BUSYBOX, unique(), "sh", "-c", script])
    return done.returncode, done.stdout.decode(), done.stderr.decode()


LOOK = ("id -u; tr -s ' ' < /proc/self/uid_map; tr -s ' ' < /proc/self/gid_map; stat -c '%n %u:%g %a' / /bin /etc/passwd /v /v/*;"
        "touch /v/new; mkdir /v/d; touch /v/d/f; chown 7:8 /v/d/f; chmod 4755 /v/d/f; ln -s x /v/link; chown -h 9:10 /v/link;"
        "stat -c '%n %u:%g %a' /v/new /v/d/f /v/link; echo x > /v/others; echo $?; chown 5 /v/others; echo $?")


def volume(path: pathlib.Path, first: int) -> pathlib.Path:
    """Files of the container's root, of another of its users and of nobody that it has; `first`: where its ids begin on the disk."""
    path.mkdir()
    for name, user in ("roots", first), ("users", first + 33), ("others", 70000):
        (path / name).write_text(name)
        os.chown(path / name, user, user)
    os.chown(path, first, first)
    return path


def test_scenario_63_ids_on_disk_are_as_runc_leaves_them(scratch):
    seen = {}
    for runtime in "runc", "wyvern":
        path = volume(scratch / runtime, FIRST)
        done = run(runtime, LOOK, "--mount", f"type=bind,src={path},dst=/v,options=rbind:rw")
        seen[runtime] = (done[:2], owners(path))
    assert seen["wyvern"] == seen["runc"]
    (code, out), files = seen["wyvern"]
    assert code == 0 and out.startswith("0\n 0 100000 65536\n 0 100000 65536\n/ 0:0 755\n"), out
    assert ("d/f", FIRST + 7, FIRST + 8, "0o104755") in files
    assert "/v/users 33:33 644" in out and "/v/others 65534:65534 644" in out


def test_scenario_63_ids_of_the_root_on_disk_are_as_runc_leaves_them():
    """What the container writes into its own root, as the host sees it below the pid of the task."""
    seen = {}
    for runtime in "runc", "wyvern":
        name = unique()
        done = call(["ctr", "run", "-d", "--null-io", *RUNTIMES[runtime], *USERS, BUSYBOX, name, "sh", "-c",
                     "mkdir /made; touch /made/a /made/b; chown 5:6 /made/b; chown 12 /etc/passwd; touch /made/done; sleep 1000"])
        assert done.returncode == 0, done.stderr
        try:
            pid = next(line.split()[1] for line in ctr("task", "ls").stdout.decode().splitlines() if line.split()[0] == name)
            root = pathlib.Path(f"/proc/{pid}/root")
            assert wait_until((root / "made/done").exists, 30)
            seen[runtime] = [*owners(root / "made"), *((p, (root / p).stat().st_uid, (root / p).stat().st_gid) for p in ("etc/passwd", "bin", "."))]
            inside = call(["ctr", "task", "exec", "--exec-id", unique(), name, "sh", "-c", "id -u; stat -c %u:%g /made/b /etc/passwd"])
            assert inside.stdout == b"0\n5:6\n12:0\n", inside.stderr
        finally:
            ctr("task", "kill", "-s", "SIGKILL", name)
            assert wait_until(lambda: ctr("task", "delete", name).returncode == 0, 30)  # noqa: B023
            ctr("container", "delete", name)
    assert seen["wyvern"] == seen["runc"]
    assert ("b", FIRST + 5, FIRST + 6, "0o100644") in seen["wyvern"]


def test_scenario_63_id_mapped_volume_has_the_ids_of_the_container(scratch):
    """What is 0 on the disk is 0 in the container, which is 100000 on the host: the same files are left as without a user namespace."""
    theirs, ours = volume(scratch / "runc", 0), volume(scratch / "wyvern", 0)
    code, out, said = run("runc", LOOK, "--mount", f"type=bind,src={theirs},dst=/v,options=rbind:rw", users=[])
    assert code == 0, said
    done = run("wyvern", LOOK, "--mount", f"type=bind,src={ours},dst=/v,options=rbind:rw:idmap")
    # Who is nobody in the container can have his files kept from its root: the last two lines.
    assert done[0] == 0 and done[1].splitlines()[8:-2] == out.splitlines()[8:-2], (done, out)
    assert done[1].splitlines()[-2:] == ["1", "1"] and "/v/others 65534:65534 644" in done[1], done
    files = owners(ours)
    assert ("d/f", 7, 8, "0o104755") in files and ("new", 0, 0, "0o100644") in files
    assert [f for f in files if f[0] != "others"] == [f for f in owners(theirs) if f[0] != "others"]


def test_scenario_63_file_system_that_cannot_map_ids_is_named(scratch):
    code, _, said = run("wyvern", "true", "--mount", "type=bind,src=/sys/kernel,dst=/v,options=rbind:ro:idmap")
    assert code != 0 and "/sys/kernel: its ids cannot be mapped" in said, said


def test_scenario_63_what_its_root_may_not(scratch):
    """Nothing that belongs to the machine, though that is the container's alone; a port below 1024 it may have."""
    code, out, said = run("wyvern", "hostname x 2>&1 | grep -c -i -E 'perm|must be'; echo 1 > /proc/sys/vm/drop_caches; timeout 2 nc -l -p 80 127.0.0.1; echo $?")
    assert out.split() == ["1", "143"], (out, said)  # it listened until the end of its time


@pytest.mark.parametrize("handler", OURS)
def test_scenario_63_pod_has_one_user_namespace(cri, handler):
    """Its containers share processes, in both of which root is the same."""
    with Pod(cri, handler, pid=POD, users=FIRST) as pod:
        first, second = pod.run(), pod.run()
        assert pod.shell(first, "tr -s ' ' < /proc/self/uid_map") == f" 0 {FIRST} 65536\n"
        namespaces = "readlink /proc/self/ns/user; readlink /proc/self/ns/ipc; readlink /proc/self/ns/pid"
        assert pod.shell(first, namespaces) == pod.shell(second, namespaces)
        assert pod.shell(first, "cat /proc/1/comm; grep -c ' mqueue ' /proc/mounts") == "pause\n1\n"
        code, _, said = pod.exec_sync(first, "sh", "-c", "echo x > /proc/sys/kernel/hostname")
        assert code != 0, said
        pod.shell(first, "httpd -p 80 -h /etc")
        assert "root" in pod.shell(second, "wget -q -O- http://127.0.0.1/passwd")


@pytest.mark.skipif(OURS == ["wyvern"], reason="containerd 1.7 id-maps no volume of a pod")
@pytest.mark.parametrize("handler", OURS)
def test_scenario_63_volumes_of_a_pod_are_id_mapped(cri, handler, scratch):
    """hostPath, an emptyDir in memory and a ConfigMap, as a kubelet asks."""
    disk = volume(scratch / "disk", 0)
    memory = scratch / "pods/6f1d/volumes/kubernetes.io~empty-dir/memory"
    config = scratch / "pods/6f1d/volumes/kubernetes.io~configmap/config"
    for path in memory, config / "..1":
        path.mkdir(parents=True)
    assert call(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0777", "tmpfs", memory]).returncode == 0
    (config / "..1/key").write_text("value\n")
    (config / "..1/key").chmod(0o400)
    (config / "..data").symlink_to("..1")
    (config / "key").symlink_to("..data/key")
    try:
        with Pod(cri, handler, users=FIRST) as pod:
            mounts = [(disk, "/v"), (memory, "/m"), (config, "/c")]
            first, second = pod.run(mounts=mounts), pod.run(mounts=mounts)
            assert pod.shell(first, "cat /c/key; stat -Lc %u:%g /c/key; stat -c %u:%g /etc/hosts /etc/resolv.conf") == "value\n0:0\n0:0\n0:0\n"
            pod.shell(first, "grep -q ' /m tmpfs' /proc/mounts && touch /m/f && chown 3:4 /m/f && touch /v/new && chown 7:8 /v/users")
            assert pod.shell(second, "stat -c %u:%g /m /m/f /v/new /v/users") == "0:0\n3:4\n0:0\n7:8\n"
            assert ("new", 0, 0, "0o100644") in owners(disk) and ("users", 7, 8, "0o100644") in owners(disk)
    finally:
        assert call(["umount", memory]).returncode == 0
