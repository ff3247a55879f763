"""A compose file whose services take the profile, by docker compose or podman-compose."""

from __future__ import annotations

from ipc_bypass.profiles.folder import CONTAINER_FOLDER, ENVIRONMENT, RULES, RUNNER
from ipc_bypass.profiles.settings import Settings

FILE = 'compose.yaml'
#: Cyclone DDS has to know where the others are, so that the services' addresses are fixed.
_SUBNET = '172.30.74.0/24'
ADDRESSES = {'talker': '172.30.74.11', 'listener': '172.30.74.12'}
#: What /ipc_bypass needs: the programs, the attachment, the other processes' sockets.
CAPABILITIES = ('BPF', 'NET_ADMIN', 'PERFMON', 'SYS_PTRACE')


def text(kind: str, settings: Settings) -> str:
    """
    Return the file, to stand in the folder of the profile.

    It has a talker and a listener to begin with, and the service `node` that others extend.

    :param kind: of KINDS
    :param settings: those of the profile beside it
    """
    demo = '\n'.join(_service(name, address) for name, address in ADDRESSES.items())
    return f"""# A graph by {kind} and TCP, and the node that shortens its way.
#   docker compose up                    talker and listener, each in a container of its own
#   docker compose --profile node up     the same, and /ipc_bypass in a container
# Once per host is enough of /ipc_bypass: leave --profile out where it runs on the host.
#
# A service of another compose file takes the profile by one line, and its own command:
#   extends: {{file: FOLDER/{FILE}, service: node}}

services:
  node:
    image: ${{ROS_IMAGE:-ros:kilted}}
    profiles: [template]
    env_file: [{ENVIRONMENT}]
    environment: {{ROS_DOMAIN_ID: "{settings.domain}"}}
    # The image's own entrypoint, and then one that gives each process a port of its own.
    entrypoint: [/ros_entrypoint.sh, python3, {CONTAINER_FOLDER}/{RUNNER}, --]
    volumes: [".:{CONTAINER_FOLDER}:ro"]

{demo}

  ipc_bypass:
    image: ${{IPC_BYPASS_IMAGE:-ipc_bypass}}
    profiles: [node]
    command: [ipc-bypass, up, --params-file, {CONTAINER_FOLDER}/{RULES}]
    # It looks at every process of the host, and at their sockets.
    network_mode: host
    pid: host
    cgroup: host
    cap_drop: [ALL]
    cap_add: [{', '.join(CAPABILITIES)}]
    security_opt: ["apparmor:unconfined"]
    environment: {{ROS_DOMAIN_ID: "{settings.domain}"}}
    volumes:
      - .:{CONTAINER_FOLDER}:ro
      - /sys/fs/bpf:/sys/fs/bpf
      - /sys/fs/cgroup:/sys/fs/cgroup:ro
      - /lib/modules:/lib/modules:ro
      - /usr/src:/usr/src:ro
    restart: on-failure

networks:
  graph:
    ipam: {{config: [{{subnet: {_SUBNET}}}]}}
"""


def _service(name: str, address: str) -> str:
    return f"""  {name}:
    extends: {{service: node}}
    profiles: []
    command: [ros2, run, demo_nodes_cpp, {name}]
    networks: {{graph: {{ipv4_address: {address}}}}}"""
