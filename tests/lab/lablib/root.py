"""Builds the lab machine's image: Debian 13 root, initramfs, disk with the OCI images imported.

A machine entry in the cache holds disk.img, vmlinuz and initrd; an images entry holds the OCI
layouts and archives (lablib/oci.py).
"""

import concurrent.futures
import inspect
import lzma
import os
import pathlib
import shutil
import tempfile
import threading

from lablib import cache, oci, session, stage
from lablib.cache import LabError
from lablib.machine import Arch, Boot

HERE = pathlib.Path(__file__).resolve().parent
FILES = HERE.parent / "machine/image"
MIRROR = os.environ.get("WYVERN_DEBIAN_MIRROR", "http://deb.debian.org/debian")
HOST_DEBIAN_ARCH = "amd64"
DISK_SIZE = "12G"  # sparse

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "kmod", "udev", "util-linux", "e2fsprogs", "erofs-utils",
    "containerd", "runc", "crun", "virtiofsd", "busybox-static", "ca-certificates",
    "python3", "python3-pytest", "iproute2", "iptables", "procps", "psmisc", "lsof", "strace", "gdb-minimal",
    "attr", "libcap2-bin", "dmsetup", "rng-tools5",
    "containernetworking-plugins", "docker.io", "docker-cli", "passt")
OLD_PACKAGES = ("containerd", "linux-image-cloud-amd64")  # from Debian 12

# Units that the machine starts; every other *.wants link of Debian's is removed.  The units stay
# installed, so a test can start what it needs (systemd-udevd, for example).
WANTED = {
    "sysinit.target.wants": ("systemd-journald.service",),
    "sockets.target.wants": ("dbus.socket", "systemd-journald.socket", "systemd-journald-dev-log.socket"),
    "multi-user.target.wants": ("dbus.service", "containerd.service", "lab-agent.service", "lab-modules.service"),
}

# Masked: generators that scan for what is not here, and /tmp in memory.
MASKED = ("etc/systemd/system/tmp.mount",) + tuple(
    f"etc/systemd/system-generators/systemd-{name}-generator" for name in (
        "debug", "fstab", "getty", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh", "system-update",
        "sysv", "tpm2"))

PACKAGES_SCRIPT = HERE.parents[2] / "deploy/packages.sh"
_installing = threading.Lock()


def install_host_tools() -> None:
    """What building needs of this host; entries are built at the same time, and apt knows one caller."""
    with _installing:
        cache.call(PACKAGES_SCRIPT, "lab")


def debootstrap(variant: str, arch: str, suite: str, packages, target: pathlib.Path) -> None:
    cache.call(
        "mmdebstrap", "--quiet", f"--variant={variant}", f"--architectures={arch}",
        "--include=" + ",".join(packages), "--aptopt=APT::Install-Recommends \"false\"",
        "--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/doc/*", suite, target, MIRROR,
        env=dict(os.environ, SOURCE_DATE_EPOCH=str(oci.EPOCH)))


def entry(arch: Arch) -> pathlib.Path:
    """The machine image of arch, built if need be."""
    images, base = packages(arch)[:2]
    recipe = [inspect.getsource(step) for step in (_build, _configure, _initrd, _unpack_modules)]
    key = cache.digest(FILES, HERE.parent / "machine/run/first-boot", *recipe, WANTED, MASKED, DISK_SIZE, arch,
                       images.name, base.name)
    return cache.entry(f"machine-{arch.name}", key, lambda tmp: _build(arch, images, base, tmp))


def packages(arch: Arch):
    """What is made of packages alone: OCI images, root, and the emulator; missing ones are made at the same time."""
    with concurrent.futures.ThreadPoolExecutor(max_workers=3) as pool:
        return [f.result() for f in (pool.submit(oci.entry, arch), pool.submit(_base, arch), pool.submit(qemu, arch))]


def qemu(arch: Arch) -> pathlib.Path:
    """Debian 13's QEMU 10, run in place: under 7.2 of Debian 12 the guest kernel's cmpxchg16b corrupts flags.
    qemu-utils, virtiofsd and passt are for tests/interop, which runs them in place too."""
    packages_wanted = (arch.qemu_package, "qemu-utils", "virtiofsd", "passt")
    key = cache.digest(packages_wanted, MIRROR)

    def build(out: pathlib.Path) -> None:
        install_host_tools()
        with cache.step("QEMU of Debian 13 (mmdebstrap)"):
            debootstrap("extract", HOST_DEBIAN_ARCH, "trixie", packages_wanted, out / "root")
    return cache.entry(f"qemu-{arch.name}", key, build)


def _base(arch: Arch) -> pathlib.Path:
    """Debian's packages for the lab machine, not configured yet."""
    key = cache.digest(arch, PACKAGES, OLD_PACKAGES, MIRROR)

    def build(out: pathlib.Path) -> None:
        install_host_tools()
        if os.geteuid() != 0:
            raise LabError("making the lab's image needs root (file ownership); run once as root")
        with cache.step("Debian 13 root of the lab machine (mmdebstrap)"):
            debootstrap("minbase", arch.debian, "trixie", PACKAGES + (arch.kernel_package,), out / "root")
        with cache.step("containerd 1.6 and kernel of Debian 12 (mmdebstrap)"):
            _add_debian_12(arch, out / "root", out / "old")
    return cache.entry(f"base-{arch.name}", key, build)


def _build(arch: Arch, images: pathlib.Path, base: pathlib.Path, out: pathlib.Path) -> None:
    install_host_tools()
    root = out / "root"
    with cache.step("configuring the root"):
        cache.call("cp", "-a", "--reflink=auto", base / "root", root)
        _configure(root)
        shutil.copytree(images, root / "opt/images", symlinks=True)
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, out / "vmlinuz")
    release = kernel.name.removeprefix("vmlinuz-")
    _unpack_modules(root / "usr/lib/modules" / release)
    cache.call("depmod", "-b", root, release)
    _initrd(root, release, out)
    with cache.step("disk"):
        cache.call("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0",
                   "-m", "0", "-L", "lab", "-d", root, out / "disk.img", DISK_SIZE)
    shutil.rmtree(root)
    with cache.step("first boot: OCI images into containerd"):
        _first_boot(arch, out)


def _add_debian_12(arch: Arch, root: pathlib.Path, old: pathlib.Path) -> None:
    debootstrap("extract", arch.debian, "bookworm", OLD_PACKAGES, old)
    binaries = root / "opt/containerd-1.6/bin"
    binaries.mkdir(parents=True)
    for name in ("containerd", "ctr", "containerd-shim-runc-v2"):
        shutil.copy(old / "usr/bin" / name, binaries / name)
    kernel = root / "opt/kernels/debian-12"
    kernel.mkdir(parents=True)
    shutil.copy(next((old / "boot").glob("vmlinuz-*")), kernel / "vmlinuz")
    shutil.copytree(next((old / "lib/modules").iterdir()), kernel / "modules", symlinks=True)
    shutil.rmtree(old)
    kernel = root / "opt/kernels/debian-13"
    kernel.mkdir(parents=True)
    release = next((root / "lib/modules").iterdir()).name
    (kernel / "vmlinuz").symlink_to(f"/boot/vmlinuz-{release}")
    (kernel / "modules").symlink_to(f"/lib/modules/{release}")


def _configure(root: pathlib.Path) -> None:
    for name in ("lab-agent.service", "lab-modules.service"):
        shutil.copy(FILES / name, root / "etc/systemd/system" / name)
    for base in ("etc/systemd/system", "usr/lib/systemd/system"):
        for wants in (root / base).glob("*.wants"):
            shutil.rmtree(wants)
    for target, units in WANTED.items():
        (root / "etc/systemd/system" / target).mkdir()
        for unit in units:
            home = "/etc" if (root / "etc/systemd/system" / unit).exists() else "/usr/lib"
            (root / "etc/systemd/system" / target / unit).symlink_to(f"{home}/systemd/system/{unit}")
    for path in MASKED:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).symlink_to("/dev/null")
    (root / "etc/systemd/system/default.target").unlink(missing_ok=True)
    (root / "etc/systemd/system/default.target").symlink_to("/usr/lib/systemd/system/multi-user.target")
    shutil.copytree(FILES / "etc", root / "etc", dirs_exist_ok=True)
    (root / "etc/fstab").write_text("")
    (root / "etc/hostname").write_text("lab\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost lab\n::1 localhost\n")
    (root / "etc/machine-id").write_text("5eed5eed5eed4eed8eed5eed5eed5eed\n")  # no first-boot work
    # The build disk is mounted at /opt/wyvern; the paths of an installation lead to it.
    for path, target in {
            "usr/local/bin/wyvern": "/opt/wyvern/bin/wyvern",
            "usr/local/bin/containerd-shim-wyvern-v2": "/opt/wyvern/bin/containerd-shim-wyvern-v2",
            "usr/libexec/wyvern": "/opt/wyvern/libexec",
            "usr/share/wyvern": "/opt/wyvern/share"}.items():
        (root / path).symlink_to(target)
    (root / "opt/wyvern").mkdir()
    for initrd in (root / "boot").glob("initrd*"):
        initrd.unlink()


def _unpack_modules(modules: pathlib.Path) -> None:
    """Unpacks the modules of every boot: the emulated CPU would need a second for it each time."""
    for part in ("kernel/arch/x86/kvm", "kernel/virt", "kernel/fs/overlayfs", "kernel/drivers/block",
                 "kernel/drivers/vhost", "kernel/net/vmw_vsock", "kernel/drivers/net"):
        for packed in (modules / part).glob("*.ko.xz"):
            packed.with_suffix("").write_bytes(lzma.decompress(packed.read_bytes()))
            packed.unlink()


def _initrd(root: pathlib.Path, release: str, out: pathlib.Path) -> None:
    """busybox, the disk driver and lab-init."""
    tree = out / "initrd.d"
    (tree / "bin").mkdir(parents=True)
    shutil.copy(root / "usr/bin/busybox", tree / "bin/busybox")
    shutil.copy(FILES / "lab-init", tree / "init")
    (tree / "init").chmod(0o755)
    driver = next((root / "lib/modules" / release).rglob("virtio_blk.ko*"))
    (tree / "virtio_blk.ko").write_bytes(
        lzma.decompress(driver.read_bytes()) if driver.suffix == ".xz" else driver.read_bytes())
    cache.call("sh", "-c", "cd \"$1\" && find . | sort | cpio -o -H newc --quiet > ../initrd", "sh", tree)
    shutil.rmtree(tree)


def _first_boot(arch: Arch, out: pathlib.Path) -> None:
    """Boots the new disk once, writable, to import the images with containerd itself."""
    with tempfile.TemporaryDirectory(prefix="wyvern-lab.") as tmp:
        disk = stage.make_disk(pathlib.Path(tmp), None, {}, [])
        code = session.run(
            Boot(arch, qemu(arch), out / "vmlinuz", out / "initrd", out / "disk.img", disk, memory=4096,
                 keep_writes=True),
            session.Request(["/bin/sh", "/opt/wyvern/lab/first-boot"], containerd="none", timeout=600,
                            console=out / "first-boot.log"))
    if code != 0:
        raise LabError(f"the lab machine's first boot failed with {code}; console:\n"
                       + (out / "first-boot.log").read_text(errors="replace")[-3000:])


def boot(arch: Arch, build_disk: pathlib.Path, cpus: int, memory: int) -> Boot:
    path = entry(arch)
    return Boot(arch, qemu(arch), path / "vmlinuz", path / "initrd", path / "disk.img", build_disk, cpus, memory)
