#!/usr/bin/env python3
"""A copy by the official Python client, as a program that tests can start.

usage: cp.py to|from KUBECONFIG NAMESPACE POD CONTAINER LOCAL REMOTE

What is in the one directory comes into the other, by tar in the container, as the library's examples
have it. Ends with 0 once the command has ended well.
"""
import io
import subprocess
import sys

from kubernetes import client, config
from kubernetes.stream import stream
from kubernetes.stream.ws_client import STDIN_CHANNEL

from exec import CHUNK_BYTES, outcome


def main(way, kubeconfig, namespace, pod, container, local, remote):
    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    flags = ["-xf", "-"] if way == "to" else ["-cf", "-", "."]
    session = stream(
        api.connect_get_namespaced_pod_exec, pod, namespace, container=container,
        command=["tar", "-C", remote, *flags], stdin=way == "to", stdout=True, stderr=True, tty=False,
        binary=True, _preload_content=False,
    )
    return (send if way == "to" else receive)(session, local)


def send(session, local):
    archive = io.BytesIO(subprocess.check_output(["tar", "-C", local, "-cf", "-", "."]))
    while piece := archive.read(CHUNK_BYTES):
        session.write_stdin(piece)
    session.close_channel(STDIN_CHANNEL)
    session.run_forever()
    return outcome(session)


def receive(session, local):
    archive = io.BytesIO()
    while session.is_open():
        session.update(timeout=None)
        archive.write(session.read_channel(1) or b"")
    archive.write(session.read_channel(1) or b"")
    subprocess.run(["tar", "-C", local, "-xf", "-"], input=archive.getvalue(), check=True)
    return outcome(session)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
