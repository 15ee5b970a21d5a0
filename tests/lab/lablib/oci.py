"""OCI images for the lab, from Debian packages: busybox:latest and debian:latest.

Each becomes an OCI layout <name>/ and an archive <name>.tar (an `oci-archive` that `ctr images import`
and `wyvern run` read).  Same packages, same bytes: sorted tars, fixed times, gzip without a name.
"""

import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import tarfile

from lablib import cache
from lablib.machine import Arch

EPOCH = 1700000000
OCI_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}
DEBIAN_PACKAGES = ("python3-minimal", "stress-ng", "fio", "procps")
# Half of the image, and only loaded by stress-ng's GPU test.
DEBIAN_WITHOUT = ("libLLVM.so.*", "libgallium-*", "libz3.so.*")
PASSWD = "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n" \
         "nobody:x:65534:65534:nobody:/home:/bin/false\n"
GROUP = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n"


def entry(arch: Arch) -> pathlib.Path:
    """The images for arch, built if need be."""
    from lablib import root
    key = cache.digest(pathlib.Path(__file__).resolve(), arch, root.MIRROR)
    return cache.entry(f"images-{arch.name}", key, lambda tmp: _build(arch, tmp))


def _build(arch: Arch, out: pathlib.Path) -> None:
    from lablib import root
    root.install_host_tools()
    with cache.step("OCI image debian (mmdebstrap)"):
        tree = out / "debian.root"
        root.debootstrap("minbase", arch.debian, "trixie", DEBIAN_PACKAGES, tree)
        for pattern in DEBIAN_WITHOUT:
            for path in (tree / "usr/lib").glob(f"*/{pattern}"):
                path.unlink()
        for part in ("var/cache/apt", "var/lib/apt/lists", "var/log"):
            shutil.rmtree(tree / part, ignore_errors=True)
            (tree / part).mkdir(parents=True)
        cache.call("tar", "-C", tree, "--sort=name", f"--mtime=@{EPOCH}", "--numeric-owner", "--clamp-mtime",
                   "--exclude=./dev/*", "-cf", out / "debian.layer", ".")
        shutil.rmtree(tree)
        _write_image(out, "debian", arch, out / "debian.layer", ["bash"])
    with cache.step("OCI image busybox"):
        busybox = out / "busybox.d"
        root.debootstrap("extract", arch.debian, "trixie", ("busybox-static",), busybox)
        _busybox_layer(busybox / "usr/bin/busybox", out / "busybox.layer")
        shutil.rmtree(busybox)
        _write_image(out, "busybox", arch, out / "busybox.layer", ["sh"])


def _busybox_layer(binary: pathlib.Path, layer: pathlib.Path) -> None:
    """The usual busybox image: the static binary, a link per applet, and a few files."""
    applets = sorted(subprocess.run([binary, "--list"], check=True, capture_output=True, text=True).stdout.split())
    with tarfile.open(layer, "w", format=tarfile.GNU_FORMAT) as tar:
        def add(name, kind, mode, data=b"", link=""):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.linkname = kind, mode, EPOCH, link
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))

        for name, mode in (("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o755),
                           ("root", 0o700), ("sys", 0o755), ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755),
                           ("var", 0o755), ("var/tmp", 0o1777)):
            add(name, tarfile.DIRTYPE, mode)
        add("bin/busybox", tarfile.REGTYPE, 0o755, binary.read_bytes())
        for applet in applets:
            if applet != "busybox":
                add(f"bin/{applet}", tarfile.LNKTYPE, 0o755, link="bin/busybox")
        add("usr/bin/env", tarfile.SYMTYPE, 0o777, link="../../bin/env")
        add("etc/passwd", tarfile.REGTYPE, 0o644, PASSWD.encode())
        add("etc/group", tarfile.REGTYPE, 0o644, GROUP.encode())


def _blob(blobs: pathlib.Path, data: bytes, media_type: str) -> dict:
    digest = hashlib.sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _write_image(out: pathlib.Path, name: str, arch: Arch, layer: pathlib.Path, command: list) -> None:
    layout = out / name
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)
    raw = layer.read_bytes()
    layer.unlink()
    layer_blob = _blob(blobs, gzip.compress(raw, compresslevel=4, mtime=0),
                       "application/vnd.oci.image.layer.v1.tar+gzip")
    created = "2023-11-14T22:13:20Z"
    config = _blob(blobs, json.dumps({
        "created": created, "architecture": OCI_ARCH[arch.name], "os": "linux",
        "config": {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": command},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(raw).hexdigest()]},
        "history": [{"created": created, "created_by": "from Debian packages"}]},
        separators=(",", ":")).encode(), "application/vnd.oci.image.config.v1+json")
    manifest_type = "application/vnd.oci.image.manifest.v1+json"
    manifest = _blob(blobs, json.dumps({
        "schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer_blob]},
        separators=(",", ":")).encode(), manifest_type)
    manifest["platform"] = {"architecture": OCI_ARCH[arch.name], "os": "linux"}
    # containerd takes its image name from the first annotation, skopeo and OCI tools from the second.
    manifest["annotations"] = {"io.containerd.image.name": f"docker.io/library/{name}:latest",
                               "org.opencontainers.image.ref.name": "latest"}
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    cache.call("tar", "-C", layout, "--sort=name", f"--mtime=@{EPOCH}", "--owner=0", "--group=0", "--numeric-owner",
               "-cf", out / f"{name}.tar", *sorted(os.listdir(layout)))
