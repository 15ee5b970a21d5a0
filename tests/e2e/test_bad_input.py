"""What a user may get wrong: one clear message, a non-zero exit code, nothing left, no hang."""

import json
import os
import pathlib
import shutil

import pytest

from harness.ctr import BUSYBOX, RUNTIME, call, ctr, run, run_argv, unique, wait_until
from harness.shim import Shim, default_spec

LAYOUT = "/opt/images/busybox"
GUEST = pathlib.Path("/usr/share/wyvern/guest")


def private(script: str, *command):
    """argv that runs command in its own mount namespace, after script."""
    return ["unshare", "-m", "sh", "-ec", script + '\nexec "$@"', "sh", *command]


def wyvern_run(*flags):
    return ["wyvern", "run", *flags, LAYOUT, "--", "true"]


def assert_clear(done, *words, code=125):
    """One message that names each word; no stack, no abort."""
    text = done.stderr.decode()
    assert done.returncode == code, (done.returncode, text)
    lines = [line for line in text.splitlines() if line.strip() and " INFO " not in line]
    assert 1 <= len(lines) <= 3, text
    for word in words:
        assert word in text, (word, text)


@pytest.mark.wyvern_only
def test_no_kvm():
    done = call(private("mount -t tmpfs none /mnt; cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /mnt/; "
                        "mount --bind /mnt /dev", *wyvern_run()))
    assert_clear(done, "/dev/kvm")


@pytest.mark.wyvern_only
def test_kvm_that_is_none():
    done = call(private("mount --bind /dev/null /dev/kvm", *wyvern_run()))
    assert_clear(done, "KVM")


@pytest.mark.wyvern_only
@pytest.mark.parametrize("instead", [
    "mount -t tmpfs none /sys/fs/cgroup",
    "mount -t tmpfs none /mnt; mkdir /mnt/v1; mount -t cgroup -o none,name=wyvern none /mnt/v1; mount --bind /mnt/v1 /sys/fs/cgroup",
], ids=["none", "v1"])
def test_no_cgroup_v2(instead):
    done = call(private(instead, *wyvern_run()))
    assert_clear(done, "/sys/fs/cgroup is not a cgroup v2 hierarchy", "systemd.unified_cgroup_hierarchy=1")


@pytest.mark.wyvern_only
@pytest.mark.parametrize("key", ["kernel", "image"])
def test_missing_guest_file(configure, key):
    configure(f"sandbox:\n  {key}: /no/such/file\n")
    assert_clear(call(wyvern_run()), "/no/such/file", f"sandbox.{key}", f"build-{key}.sh")


@pytest.mark.wyvern_only
def test_kernel_that_is_none(configure, scratch):
    (scratch / "kernel").write_bytes(b"this is not a kernel" * 1000)
    configure(f"sandbox:\n  kernel: {scratch}/kernel\n")
    assert_clear(call(wyvern_run()), str(scratch / "kernel"))


@pytest.mark.wyvern_only
def test_truncated_kernel(configure, scratch):
    whole = (GUEST / "vmlinux").read_bytes()
    (scratch / "kernel").write_bytes(whole[:len(whole) // 2])
    configure(f"sandbox:\n  kernel: {scratch}/kernel\n")
    assert_clear(call(wyvern_run()), str(scratch / "kernel"))


@pytest.mark.wyvern_only
def test_damaged_guest_image(configure, scratch):
    image = bytearray((GUEST / "image.erofs").read_bytes())
    image[1024:4096] = os.urandom(3072)  # the super block
    (scratch / "image.erofs").write_bytes(image)
    configure(f"sandbox:\n  image: {scratch}/image.erofs\ntimeouts:\n  boot: 20s\n")
    assert_clear(call(wyvern_run()), "image")


def begin_of_program(image: bytearray, text: bytes) -> int:
    """Of the one in the image that contains text; files begin at a block."""
    begins = [at for at in range(0, len(image), 4096) if image[at:at + 4] == b"\x7fELF"] + [len(image)]
    found = [begin for begin, end in zip(begins, begins[1:]) if text in image[begin:end]]
    assert len(found) == 1, found
    return found[0]


@pytest.mark.wyvern_only
@pytest.mark.parametrize("where", ["first block", "a program's data"])
def test_damage_further_in_the_guest_image(configure, scratch, where):
    """What only the guest can find: a wrong checksum (its root cannot be mounted), or crun as zeros from its second block on."""
    image = bytearray((GUEST / "image.erofs").read_bytes())
    if where == "first block":
        image[3072:4096] = os.urandom(1024)
        words = ("panic",)
    else:
        begin = begin_of_program(image, b"libcrun")
        image[begin + 4096:begin + (256 << 10)] = bytes((256 << 10) - 4096)
        words = ("crun",)
    (scratch / "image.erofs").write_bytes(image)
    configure(f"sandbox:\n  image: {scratch}/image.erofs\n")
    done = call(wyvern_run(), timeout=60)
    text = done.stderr.decode(errors="replace")
    # More than one line: the guest's console is shown, too.
    assert done.returncode == 125 and all(word in text for word in words), (done.returncode, text)


@pytest.fixture
def no_kvm():
    """What the shim finds; it starts in containerd's mount namespace, so the device itself goes for a while."""
    os.rename("/dev/kvm", "/dev/kvm.away")
    yield
    os.rename("/dev/kvm.away", "/dev/kvm")


@pytest.mark.wyvern_only
def test_no_kvm_through_containerd(no_kvm):
    del no_kvm
    assert_clear(run(BUSYBOX, "true"), "/dev/kvm", "wyvern check", code=1)


@pytest.mark.wyvern_only
def test_missing_kernel_through_containerd(configure):
    configure("sandbox:\n  kernel: /no/such/file\n")
    assert_clear(run(BUSYBOX, "true"), "/no/such/file", "sandbox.kernel", "build-kernel.sh", code=1)


@pytest.mark.wyvern_only
def test_unknown_key(configure):
    path = configure("sandbox:\n  vcpu: 2\n")
    assert_clear(call(wyvern_run()), f"{path}:2: sandbox.vcpu: unknown key")


@pytest.mark.wyvern_only
def test_wrong_type(configure):
    path = configure("sandbox:\n  vcpus: many\n")
    assert_clear(call(wyvern_run()), f"{path}:2: sandbox.vcpus: 'many' is not a whole number")


@pytest.mark.wyvern_only
def test_configuration_that_is_no_yaml(configure):
    path = configure("sandbox: [\n")
    assert_clear(call(wyvern_run()), f"{path}:2: not yaml")


@pytest.mark.wyvern_only
@pytest.mark.parametrize("argv, says", [
    (["--bogus"], "unknown option --bogus"),
    (["run"], "image is required"),
    (["run", "--cpus", "0", LAYOUT], "--cpus: Value 0 not in range 1 to 8"),
    (["run", "--cpus", "x", LAYOUT], "--cpus: Value x not in range 1 to 8"),
    (["frobnicate"], 'unknown command "frobnicate"'),
    ([], "a command is required"),
], ids=str)
def test_wrong_usage(argv, says):
    assert_clear(call(["wyvern", *argv]), says, "see: wyvern", "--help", code=2)


@pytest.mark.wyvern_only
@pytest.mark.parametrize("what, says", [("missing", "there is no image or root directory"), ("empty directory", "true"),
                                        ("not an archive", "image: not a tar archive"), ("broken archive", "Truncated tar archive"),
                                        ("broken layout", "the image is damaged: blob")])
def test_bad_image(scratch, what, says):
    path = scratch / "image"
    if what == "empty directory":
        path.mkdir()
    elif what == "not an archive":
        path.write_bytes(b"hello" * 1000)
    elif what == "broken archive":
        path.write_bytes(pathlib.Path(LAYOUT + ".tar").read_bytes()[:300000])
    elif what == "broken layout":
        shutil.copytree(LAYOUT, path)
        for blob in (path / "blobs/sha256").iterdir():
            data = blob.read_bytes()
            blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert_clear(call(["wyvern", "run", path, "--", "true"]), says)


@pytest.mark.wyvern_only
def test_full_state_directory():
    done = call(private("mkdir -p /run/wyvern; mount -t tmpfs -o size=64k none /run/wyvern; "
                        "head -c 1000000 /dev/zero > /run/wyvern/fill || true", *wyvern_run()))
    assert_clear(done, "No space left")


@pytest.mark.wyvern_only
def test_full_image_store():
    """While a layer is unpacked: an error that says so, and no layer that lacks something is kept for the next run."""
    store = "/var/lib/wyvern/images"
    script = 'code=0; "$@" || code=$?; ls ' + store + "/layers; exit $code"
    done = call(private(f"mkdir -p {store}; mount -t tmpfs -o size=512k none {store}", "sh", "-c", script, "sh", *wyvern_run()))
    assert_clear(done, "No space left", "unpack layer")
    assert done.stdout == b""


@pytest.fixture
def full_run_wyvern():
    """What containerd's shims find: they run in its mount namespace, so /run/wyvern itself is full for a while."""
    state = pathlib.Path("/run/wyvern")
    state.mkdir(exist_ok=True)
    assert call(["mount", "-t", "tmpfs", "-o", "size=64k", "none", state]).returncode == 0
    try:
        call(["sh", "-c", f"cat /dev/zero > {state}/fill"])
        yield state
    finally:
        assert wait_until(lambda: call(["umount", state]).returncode == 0, 10)


@pytest.mark.wyvern_only
def test_scenario_41_full_state_directory_through_containerd(full_run_wyvern):
    name = unique()
    assert_clear(run(BUSYBOX, "true", name=name), "No space left", code=1)
    assert os.listdir(full_run_wyvern) == ["fill"]
    assert name not in ctr("task", "ls", "-q").stdout.decode()
    ctr("container", "delete", name)  # should --rm not have done it
    assert name not in ctr("container", "ls", "-q").stdout.decode()


@pytest.mark.wyvern_only
def test_annotation_that_is_refused():
    done = run(BUSYBOX, "true", flags=["--annotation", "io.wyvern.sandbox.kernel=/x"])
    assert_clear(done, "annotation io.wyvern.sandbox.kernel: annotations.allow does not list sandbox.kernel", code=1)


def test_full_disk_in_the_container(scratch):
    """A volume that fills up is the container's ENOSPC, not our end."""
    point = scratch / "small"
    point.mkdir()
    assert call(["mount", "-t", "tmpfs", "-o", "size=1m", "none", point]).returncode == 0
    try:
        flags = ["--mount", f"type=bind,src={point},dst=/data,options=rbind:rw"]
        done = run(BUSYBOX, "sh", "-c", "dd if=/dev/zero of=/data/f bs=64k; rm /data/f; echo still here", flags=flags)
        assert done.returncode == 0 and b"No space left" in done.stderr
        assert done.stdout == b"still here\n"
    finally:
        call(["umount", point])


def test_spec_without_process_arguments(busybox_root, scratch):
    spec = json.loads(ctr("oci", "spec").stdout)
    spec["root"] = {"path": str(busybox_root)}
    spec["process"]["args"] = []
    path = scratch / "config.json"
    path.write_text(json.dumps(spec))
    done = call(["ctr", "run", "--rm", "--runtime", RUNTIME, "--config", path, unique()])
    assert done.returncode != 0 and done.stderr.strip()


def test_unknown_runtime_option_file():
    done = call(run_argv(BUSYBOX, "true", flags=["--rm", "--runtime-config-path", "/no/such/file.yaml"]))
    if RUNTIME != "io.containerd.wyvern.v2":
        pytest.skip("runc reads no such file")
    assert done.returncode != 0 and b"/no/such/file.yaml" in done.stderr


@pytest.mark.wyvern_only
@pytest.mark.parametrize("options, says", [
    ({3: "\n[sandbox]\nvcpu = 1\n"}, "runtime options:3: sandbox.vcpu: unknown key"),
    ({3: "[sandbox]\nvcpus = '1'\n"}, "runtime options:2: sandbox.vcpus: must be an integer"),
    ({3: "SystemdCgroup = true\n"}, "runtime options:1: SystemdCgroup: unknown key"),
    ({3: "state_dir = '/tmp'\n"}, "runtime options:1: state_dir: can only be set below /etc/wyvern"),
    ({3: "sandbox:\n  vcpus: 1\n"}, "runtime options:1: not toml"),
    ({3: b"\xff\0"}, "runtime options:1: not toml"),
    ({1: "io.containerd.runsc.v1.options"}, "TypeUrl"),
    ({2: "rootfs/etc/options.yaml"}, "ConfigPath is not an absolute path"),
], ids=["unknown key", "wrong type", "of runc", "system's", "yaml", "bytes", "of another runtime", "relative path"])
def test_runtime_options_that_are_wrong(scratch, busybox_root, options, says):
    """Straight to the shim, as the CRI plugin sends a handler's options; ctr can only send a path."""
    with Shim(scratch / "bundle", default_spec(busybox_root, ["true"])) as shim:
        code, message = shim.call("Create", shim.create(options))[:2]
        assert code == 3 and says in message, message


@pytest.mark.wyvern_only
def test_shim_without_arguments():
    done = call(["containerd-shim-wyvern-v2"])
    assert done.returncode != 0 and done.stderr.strip()


@pytest.mark.wyvern_only
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"ociVersion": 7}', "\0" * 100, '{"process":{"args":"true"}}'],
                         ids=["empty", "cut", "array", "null", "wrong type", "zeros", "args no array"])
def test_bundle_that_is_no_json(shim_bundle, text):
    """Straight to the shim, as containerd would with a bundle damaged on disk."""
    bundle, create = shim_bundle
    (bundle / "config.json").write_text(text)
    code, message = create()
    assert code != 0 and "config.json" in message
