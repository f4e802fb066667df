#!/usr/bin/env python3
"""An image registry that is read only: serves an OCI layout on loopback.

usage: registry.py DIR ADDRESS-FILE

The layout's index.json names images with their registries; who asks says by `?ns=REGISTRY`, as
containerd does of a mirror, which one it means. ADDRESS-FILE gets HOST:PORT once it serves.
"""
import http.server
import json
import os
import sys
import urllib.parse


def main(directory, address_file):
    with open(os.path.join(directory, "index.json"), "rb") as file:
        entries = json.load(file)["manifests"]
    by_name = {entry["annotations"]["io.containerd.image.name"]: entry for entry in entries}
    manifests = {entry["digest"]: entry["mediaType"] for entry in entries}
    blobs = {"sha256:" + name for name in os.listdir(os.path.join(directory, "blobs", "sha256"))}

    class Registry(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            found = self.find()
            if found is None:
                self.answer(404, "application/json", b'{"errors":[{"code":"NOT_FOUND"}]}')
                return
            digest, media_type = found
            path = os.path.join(directory, "blobs", "sha256", digest.removeprefix("sha256:"))
            with open(path, "rb") as file:
                self.answer(200, media_type, file.read(), digest)

        do_HEAD = do_GET

        def find(self):
            url = urllib.parse.urlsplit(self.path)
            registry = urllib.parse.parse_qs(url.query).get("ns", ["localhost"])[0]
            name, _, rest = url.path.removeprefix("/v2/").partition("/manifests/")
            if rest in manifests:
                return rest, manifests[rest]
            if rest:
                entry = by_name.get(f"{registry}/{name}:{rest}")
                return entry and (entry["digest"], entry["mediaType"])
            digest = name.partition("/blobs/")[2]
            return (digest, "application/octet-stream") if digest in blobs else None

        def answer(self, status, media_type, body, digest=None):
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Registry)
    with open(address_file + ".new", "w", encoding="utf-8") as file:
        file.write(f"127.0.0.1:{server.server_port}\n")
    os.rename(address_file + ".new", address_file)
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
