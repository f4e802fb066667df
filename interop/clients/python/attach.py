#!/usr/bin/env python3
"""An attach by the official Python client, as a program that tests can start.

usage: attach.py [-i] KUBECONFIG NAMESPACE POD CONTAINER

Ends as exec.py does.
"""
import sys

from kubernetes import client, config
from kubernetes.stream import stream

from exec import carry, outcome


def main(argv):
    interactive = argv[:1] == ["-i"]
    kubeconfig, namespace, pod, container = (argv[1:] if interactive else argv)[:4]
    api = client.CoreV1Api(config.new_client_from_config(kubeconfig))
    session = stream(
        api.connect_get_namespaced_pod_attach, pod, namespace, container=container,
        stdin=interactive, stdout=True, stderr=True, tty=False, binary=True, _preload_content=False,
    )
    carry(session, interactive)
    return outcome(session)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
