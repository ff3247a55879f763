"""
The profile of zenoh, and so of rmw_zenoh, as JSON5: TCP, each process on a port of its own.

zenoh reads no environment in its files, so that whoever starts a process on a port of its own
writes it a copy with the endpoint of `listen` replaced: run_with_port does. Keys are those of
zenoh 1.x (DEFAULT_CONFIG.json5); the router, timestamping and the long time-out of queries are
what rmw_zenoh expects.
"""

from __future__ import annotations

import json

from ipc_bypass.profiles.settings import Settings

FILE = 'zenoh.json5'
RMW = 'rmw_zenoh_cpp'
_ROUTER_PORT = 7447


def profile(settings: Settings) -> str:
    """Return the JSON5, with a port of the kernel's choice."""
    hosts = ('localhost', *settings.peers)
    content = {
        'mode': 'peer',
        'connect': {
            # Without a router, peers find each other by multicast.
            'exit_on_failure': False, 'timeout_ms': 0,
            'endpoints': [f'tcp/{host}:{_ROUTER_PORT}' for host in hosts]},
        'listen': {'exit_on_failure': False, 'timeout_ms': 0,
                   'endpoints': [listen(settings, '0')]},
        'scouting': {'multicast': {'enabled': True}, 'gossip': {'enabled': True}},
        'timestamping': {'enabled': True, 'drop_future_timestamp': False},
        'queries_default_timeout': 600000,
        'transport': {
            'link': {'tx': {'batch_size': 65535}},
            'shared_memory': {'enabled': settings.shared_memory}},
    }
    return json.dumps(content, indent=2) + '\n'


def listen(settings: Settings, port: str) -> str:
    """Return the endpoint where a process listens."""
    return f'tcp/{settings.address or "0.0.0.0"}:{port}'


def environment(path: str) -> dict[str, str]:
    """Return what a process needs to find the profile at `path`."""
    # The first is rmw_zenoh's, the second that of zenoh's own Config.from_env().
    return {'RMW_IMPLEMENTATION': RMW, 'ZENOH_SESSION_CONFIG_URI': path, 'ZENOH_CONFIG': path}
