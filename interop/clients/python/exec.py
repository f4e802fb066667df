#!/usr/bin/env python3
"""A command in a pod by the official Python client, as a program that tests can start.

usage: exec.py [-i] KUBECONFIG NAMESPACE POD CONTAINER COMMAND [ARG...]

Ends with the remote exit code; with 1 and a line if the server refused or reported a failure that is
no exit code; with 255 if the connection ended without a status.
"""
import os
import select
import sys

from kubernetes import client, config
from kubernetes.stream import stream
from kubernetes.stream.ws_client import ERROR_CHANNEL, STDERR_CHANNEL, STDIN_CHANNEL, STDOUT_CHANNEL

CHUNK_BYTES = 32 * 1024


def main(argv):
    interactive = argv[:1] == ["-i"]
    kubeconfig, namespace, pod, container, *command = argv[1:] if interactive else argv
    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    try:
        session = stream(
            api.connect_get_namespaced_pod_exec, pod, namespace, container=container, command=command,
            stdin=interactive, stdout=True, stderr=True, tty=False, binary=True, _preload_content=False,
        )
    except client.ApiException as refused:
        print(f"exec.py: refused: {refused.status} {refused.reason}", file=sys.stderr)
        return 1
    if os.environ.get("SHOW_PROTOCOL"):
        print(f"protocol {session.subprotocol}", file=sys.stderr)
    carry(session, interactive)
    return outcome(session)


def carry(session, interactive):
    # One thread: the TLS connection below must not be read and written at the same time.
    ready = select.poll()
    ready.register(session.sock.sock, select.POLLIN)
    if interactive:
        ready.register(STDIN_CHANNEL, select.POLLIN)
    while session.is_open():
        session.update(timeout=0)
        # What TLS has decrypted already, no poll shows.
        if show(session) or session.sock.sock.pending():
            continue
        if not session.is_open():
            break
        woken = [fd for fd, _ in ready.poll()]
        if woken == [STDIN_CHANNEL]:
            data = os.read(STDIN_CHANNEL, CHUNK_BYTES)
            if data:
                session.write_stdin(data)
            else:
                # Before v5 a client cannot say that its input has ended: nothing is sent then.
                session.close_channel(STDIN_CHANNEL)
                ready.unregister(STDIN_CHANNEL)
    while show(session):
        pass


def show(session):
    shown = False
    for channel, out in ((STDOUT_CHANNEL, sys.stdout.buffer), (STDERR_CHANNEL, sys.stderr.buffer)):
        data = session.read_channel(channel)
        if data:
            out.write(data)
            out.flush()
            shown = True
    return shown


def outcome(session):
    status = session.peek_channel(ERROR_CHANNEL)
    if not status:
        print("exec.py: lost: the connection ended without a status", file=sys.stderr)
        return 255
    try:
        return session.returncode
    except (KeyError, TypeError, ValueError):
        print(f"exec.py: failed: {status.decode(errors='replace')}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
