"""Images made of the machine's (/opt/images), in an archive or in a registry on the loopback that has nothing else."""

import contextlib
import gzip
import hashlib
import http.server
import io
import json
import pathlib
import re
import tarfile
import threading

LAYOUTS = pathlib.Path("/opt/images")
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
PLAIN_LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
LAYER_TYPE = PLAIN_LAYER_TYPE + "+gzip"
PATH = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")


def layer(*entries) -> bytes:
    """A layer, not compressed: (name, data or None for a directory, owner[, mode]) in that order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data, owner, *mode in entries:
            info = tarfile.TarInfo(name)
            info.uid = info.gid = owner
            info.type, info.mode = (tarfile.DIRTYPE, 0o755) if data is None else (tarfile.REGTYPE, *(mode or [0o644]))
            info.size = len(data or b"")
            tar.addfile(info, io.BytesIO(data or b""))
    return out.getvalue()


class Images:
    """By name and tag, all of their blobs together."""

    def __init__(self):
        self.blobs = {}  # digest -> (type, bytes or file)
        self.names = {}  # "name:tag" -> descriptor of its manifest

    def _add(self, data: bytes, media_type: str) -> dict:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = (media_type, data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def derive(self, name: str, base: str, more: bytes | None = None, **config) -> None:
        """`base`: a layout of the machine; `more`: a layer on top of its own; `config`: what is other than there."""
        stored = LAYOUTS / base / "blobs"

        def file(descriptor: dict) -> pathlib.Path:
            return stored / descriptor["digest"].replace(":", "/")

        manifest = json.loads(file(json.loads((LAYOUTS / base / "index.json").read_text())["manifests"][0]).read_text())
        image = json.loads(file(manifest["config"]).read_text())
        image["config"] |= config
        for descriptor in manifest["layers"]:
            self.blobs[descriptor["digest"]] = (descriptor["mediaType"], file(descriptor))
        if more is not None:
            manifest["layers"].append(self._add(gzip.compress(more, mtime=0), LAYER_TYPE))
            image["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(more).hexdigest())
            image.pop("history", None)
        manifest["config"] = self._add(json.dumps(image).encode(), CONFIG_TYPE)
        self.names[name] = self._add(json.dumps(manifest).encode(), MANIFEST_TYPE)

    def make(self, name: str, layers: list[bytes], **config) -> None:
        """One of nothing but these layers, which stay uncompressed."""
        image = {"architecture": "amd64", "os": "linux", "config": config, "rootfs": {
            "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(data).hexdigest() for data in layers]}}
        self.names[name] = self._add(json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": self._add(json.dumps(image).encode(), CONFIG_TYPE),
            "layers": [self._add(data, PLAIN_LAYER_TYPE) for data in layers]}).encode(), MANIFEST_TYPE)

    def read(self, digest: str) -> bytes:
        data = self.blobs[digest][1]
        return data if isinstance(data, bytes) else data.read_bytes()

    def archive(self, path: pathlib.Path, prefix: str = "") -> None:
        """All of them, as `ctr images import` reads it."""
        index = [descriptor | {"annotations": {"io.containerd.image.name": prefix + name}} for name, descriptor in self.names.items()]
        files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps({"schemaVersion": 2, "manifests": index}).encode()}
        files |= {"blobs/" + digest.replace(":", "/"): self.read(digest) for digest in self.blobs}
        with tarfile.open(path, "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))

    @contextlib.contextmanager
    def registry(self, port: int):
        """Serves them while the statement runs; gives its name, to which containerd speaks without TLS."""
        images = self

        class Answers(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_HEAD(self):
                self.answer(False)

            def do_GET(self):
                self.answer(True)

            def answer(self, body: bool):
                asked = PATH.fullmatch(self.path.partition("?")[0])
                digest = asked["reference"] if asked else ""
                if asked and not digest.startswith("sha256:"):
                    digest = images.names.get(f"{asked['name']}:{digest}", {}).get("digest", "")
                media_type = images.blobs.get(digest, (None,))[0]
                found = media_type is not None or self.path == "/v2/"
                data = images.read(digest) if media_type else b"{}"
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", media_type or "application/json")
                self.send_header("Content-Length", str(len(data)))
                if media_type:
                    self.send_header("Docker-Content-Digest", digest)
                self.end_headers()
                if body:
                    self.wfile.write(data)

        with http.server.ThreadingHTTPServer(("127.0.0.1", port), Answers) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            try:
                yield f"localhost:{port}"
            finally:
                server.shutdown()
