"""The TCP ports of a process, from /proc."""

from __future__ import annotations

from collections.abc import Container
import os

_LISTEN, _ESTABLISHED = '0A', '01'  # states of /proc/net/tcp


def listening_ports(pid: int, ports: Container[int]) -> list[int]:
    """Return those of the ports that a process listens on, sorted."""
    return sorted({local for state, local, _ in _sockets(pid)
                   if state == _LISTEN and local in ports})


def established_ports(pid: int, ports: Container[int]) -> list[int]:
    """Return those of the ports that are either end of a connection of a process, sorted."""
    return sorted({port for state, local, remote in _sockets(pid) if state == _ESTABLISHED
                   for port in (local, remote) if port in ports})


def _sockets(pid: int):
    """Yield (state, local port, remote port) of a process's TCP sockets; none once it ended."""
    try:
        inodes = _inodes(pid)
        for name in ('tcp', 'tcp6'):
            with open(f'/proc/{pid}/net/{name}') as stream:
                next(stream)
                for line in stream:
                    words = line.split()
                    if words[9] in inodes:
                        yield words[3], _port(words[1]), _port(words[2])
    except OSError:
        return


def _inodes(pid: int) -> set[str]:
    found = set()
    for number in os.listdir(f'/proc/{pid}/fd'):
        try:
            target = os.readlink(f'/proc/{pid}/fd/{number}')
        except OSError:
            continue
        if target.startswith('socket:['):
            found.add(target[8:-1])
    return found


def _port(text: str) -> int:
    return int(text.rpartition(':')[2], 16)
