#!/usr/bin/env python3
"""A port of a pod by the official Python client, as a program that tests can start.

usage: forward.py KUBECONFIG NAMESPACE POD PORT BYTES

Sends its input to the port and prints what comes back, until the port's side ends or BYTES have
come. Ends with 1 and a line if the port could not be reached.
"""
import os
import sys
import threading

from kubernetes import client, config
from kubernetes.stream import portforward


def main(kubeconfig, namespace, pod, port, limit):
    port, left = int(port), int(limit)
    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    forward = portforward(api.connect_get_namespaced_pod_portforward, pod, namespace, ports=str(port))
    socket = forward.socket(port)
    socket.setblocking(True)
    sending = threading.Thread(target=lambda: send(socket), daemon=True)
    sending.start()
    while left > 0:
        try:
            data = socket.recv(min(left, 64 * 1024))
        except ConnectionResetError:  # the library's way to say that there is an error
            break
        if not data:
            break
        sys.stdout.buffer.write(data)
        left -= len(data)
    sys.stdout.buffer.flush()
    error = forward.error(port)
    if error:
        print(f"forward.py: {error}", file=sys.stderr)
        return 1
    return 0


def send(socket):
    # Not through sys.stdin: an interpreter that ends while a thread waits in there aborts.
    while data := os.read(0, 64 * 1024):
        socket.sendall(data)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
