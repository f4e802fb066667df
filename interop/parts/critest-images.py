#!/usr/bin/env python3
"""Makes the images that critest pulls, without the registries that have them.

usage: critest-images.py BUSYBOX NNP DIR

Each is one static busybox under the name of an image that critest asks for, with what its specs look
for. NNP is a static program that says its effective user. Writes an OCI layout into DIR, whose
index.json has the images' whole names; registry.py serves it. The same input gives the same bytes.
"""
import gzip
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile

OF_TESTS = "registry.k8s.io/e2e-test-images/"
OF_CRITEST = "gcr.io/k8s-staging-cri-tools/"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/sh
nobody:x:65534:65534:nobody:/home:/bin/sh
default-user:x:1000:1000::/home:/bin/sh
"""
GROUP = """\
root:x:0:
www-data:x:33:
nobody:x:65534:
default-user:x:1000:
group-defined-in-image:x:50000:default-user
"""
# What the specs start and Debian's busybox has not. (A sandbox's own process is a sleep.)
SCRIPTS = {
    "pgrep": 'grep -lsx "$1" /proc/[0-9]*/comm | grep -v /1/',
    "ipcs": "cat /proc/sysvipc/shm",
}
# Specs look for a process of this name, with this number, and "master process" among its words.
NGINX = "#!/bin/sh\necho $$ >/var/run/nginx.pid\nhttpd -f -p {port} -h /www\n"
HTTPD = "#!/bin/sh\necho httpd starts\nexec httpd -f -p 80 -h /www\n"


def main(busybox, nnp, directory):
    layout = Layout(directory)
    base = base_layer(busybox)
    sleeping = {"Cmd": ["sh"]}

    def image(names, config=sleeping, files=()):
        layout.image(names, [base, *([layer(files)] if files else [])], config)

    def web(names, program, text):
        image(names, {"Cmd": [program, "master process"]}, [(program[1:], text.encode(), 0o755)])

    def marked(names, mark):
        image(names, files=[(mark, b"", 0o644)])

    image([OF_TESTS + "busybox:1.29-2"])
    image(["registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"], {"Cmd": ["sleep", "2147483647"]})
    web([OF_TESTS + "nginx:1.14-2"], "/bin/nginx", NGINX.format(port=80))
    web([f"{OF_CRITEST}hostnet-nginx-{ARCHITECTURE}:latest"], "/bin/nginx", NGINX.format(port=12003))
    web([OF_TESTS + "httpd:2.4.39-4"], "/bin/start-httpd", HTTPD)
    with open(nnp, "rb") as program:
        files = [("nnp", program.read(), 0o4755)]
    image([OF_TESTS + "nonewprivs:1.3"], {"Cmd": ["/nnp"]}, files)
    for name, user in [
        ("user-uid", "1002"),
        ("user-username", "www-data"),
        ("user-uid-group", "1003:1004"),
        ("user-username-group", "www-data:1004"),
        ("predefined-group", "1000"),
    ]:
        image([f"{OF_CRITEST}test-image-{name}:latest"], {"Cmd": ["sh"], "User": user})
    for name in ["1:latest", "2:latest", "3:latest", "latest:latest", "tag:test", "tag:all"]:
        marked([f"{OF_CRITEST}test-image-{name}"], name.replace(":", "-"))
    marked([f"{OF_CRITEST}test-image-tags:{tag}" for tag in "123"], "same-image")
    layout.finish()


class Layout:
    def __init__(self, directory):
        self.directory = directory
        self.manifests = []
        os.makedirs(os.path.join(directory, "blobs", "sha256"), exist_ok=True)

    def image(self, names, layers, config):
        config = {
            "architecture": ARCHITECTURE,
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"], "WorkingDir": "/", **config},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hash_of(tar) for tar in layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self.blob(as_json(config), "application/vnd.oci.image.config.v1+json"),
            "layers": [
                self.blob(gzip.compress(tar, 6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
                for tar in layers
            ],
        }
        described = self.blob(as_json(manifest), manifest["mediaType"])
        for name in names:
            annotations = {
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1],
            }
            self.manifests.append({**described, "annotations": annotations})

    def blob(self, data, media_type):
        self.write(os.path.join("blobs", "sha256", hash_of(data)), data)
        return {"mediaType": media_type, "digest": "sha256:" + hash_of(data), "size": len(data)}

    def finish(self):
        index = {"schemaVersion": 2, "manifests": self.manifests}
        self.write("oci-layout", as_json({"imageLayoutVersion": "1.0.0"}))
        self.write("index.json", as_json(index))

    def write(self, name, data):
        with open(os.path.join(self.directory, name), "wb") as file:
            file.write(data)


def base_layer(busybox):
    applets = subprocess.check_output([busybox, "--list"], text=True).split()
    with open(busybox, "rb") as program:
        files = [("bin/busybox", program.read(), 0o755)]
    folders = "bin etc home proc root root/foo root/foo/bar sys tmp usr usr/bin var var/run www dev"
    files = [(name, None, 0o1777 if name == "tmp" else 0o755) for name in folders.split()] + files
    files += [("bin/" + name, "bin/busybox", 0o755) for name in applets if name != "busybox"]
    files += [(f"bin/{name}", f"#!/bin/sh\n{text}\n".encode(), 0o755) for name, text in SCRIPTS.items()]
    files += [
        ("etc/passwd", PASSWD.encode(), 0o644),
        ("etc/group", GROUP.encode(), 0o644),
        ("root/foo/bar/foo.bar", b"foobar\n", 0o644),
        ("www/index.html", b"<html>It works!</html>\n", 0o644),
    ]
    return layer(files)


def layer(files):
    """A tar of (name, what is in it, mode). None is a folder, a text another name of that file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, what, mode in files:
            entry = tarfile.TarInfo(name)
            entry.mode = mode
            if what is None:
                entry.type = tarfile.DIRTYPE
                tar.addfile(entry)
            elif isinstance(what, str):
                entry.type, entry.linkname = tarfile.LNKTYPE, what
                tar.addfile(entry)
            else:
                entry.size = len(what)
                tar.addfile(entry, io.BytesIO(what))
    return packed.getvalue()


def as_json(value):
    return json.dumps(value, sort_keys=True).encode()


def hash_of(data):
    return hashlib.sha256(data).hexdigest()


if __name__ == "__main__":
    main(*sys.argv[1:])
