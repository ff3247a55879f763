#!/usr/bin/env python3
"""
Run a command with a profile and a TCP port of its own.

Stands alone, on Python's standard library, since a container has it beside its profile without the
rest of the package: `python3 run_with_port.py [--profile FOLDER] -- COMMAND...`. FOLDER is what
`ipc-bypass profile` wrote, by default the one where this file is.

The port is reserved by a socket that the command inherits: the kernel frees it with the process,
however that ends, and no two processes of one network namespace have the same. Whatever is wrong
with the profile, the command runs: without it, and with one line that says so.
"""

import errno
import json
import os
import select
import socket
import sys
import tempfile
import time

DESCRIPTION = 'profile.json'
PORT_VARIABLE = 'IPC_BYPASS_PORT'
#: Abstract names, which belong to a network namespace, as ports do.
_NAME = '\0ipc_bypass/tcp_port/{}'
#: Seconds that a peer may take to answer.
_PATIENCE = 0.5


class Unusable(Exception):
    """The profile cannot be used; the text says why and what to do."""


def main(words=None):
    """Run the command in this process; return 2 without one, 126 or 127 where it cannot start."""
    words = sys.argv[1:] if words is None else list(words)
    folder = os.path.dirname(os.path.abspath(__file__))
    if words[:1] == ['--profile'] and len(words) > 1:
        folder, words = words[1], words[2:]
    if words[:1] == ['--']:
        words = words[1:]
    if not words:
        _say('no command: run_with_port.py [--profile FOLDER] -- COMMAND...')
        return 2
    environment = dict(os.environ)
    try:
        environment.update(prepare(folder))
    except Unusable as error:
        _say(f'{error}; running without the profile')
    try:
        os.execvpe(words[0], words, environment)
    except OSError as error:
        _say(f'cannot run {words[0]}: {error.strerror}')
        return 127 if isinstance(error, FileNotFoundError) else 126


def prepare(folder):
    """
    Reserve a port for this process and what it executes, and return its environment.

    Without a free port in the profile's range the process takes one of the kernel's choice: its
    traffic flows, by plain TCP. Raises Unusable.
    """
    description = read(folder)
    path = description['file']
    if not os.path.isabs(path):
        path = os.path.join(os.path.abspath(folder), path)
    try:
        with open(path) as stream:
            text = stream.read()
    except OSError as error:
        raise Unusable(f'cannot read the profile {path}: {error.strerror}: write it again with '
                       '`ipc-bypass profile`') from None
    except ValueError:
        raise Unusable(f'cannot read the profile {path}: it is no text: write it again with '
                       '`ipc-bypass profile`') from None
    first, last = description['ports']
    port = reserve(range(first, last + 1))
    if not port:
        _say(f'every port from {first} to {last} is taken: this process takes another one, by '
             'plain TCP; give the profile a wider range (`ipc-bypass profile --ports`)')
    # At the port that is taken last: Cyclone DDS may hang for good where a connection to it ends
    # while it announces itself (ddsi_tcp.c: two threads, two locks, in different orders).
    own = without_peers(text, silent(description['peers'], last))
    if description['replace']:
        before, after = description['replace']
        own = own.replace(before, after.replace('@PORT@', str(port)))
    if own != text:
        path = own_copy(own, port, os.path.basename(path))
    environment = {name: value.replace('@FILE@', path)
                   for name, value in description['environment'].items()}
    # What the user set for the allocator stands.
    return {**{name: value for name, value in environment.items()
               if not (name.startswith('MALLOC_') and name in os.environ)},
            PORT_VARIABLE: str(port)}


def read(folder):
    """Return the description of a profile, a dict; raises Unusable."""
    path = os.path.join(folder, DESCRIPTION)
    try:
        with open(path) as stream:
            found = json.load(stream)
        first, last = found['ports']
        environment = found['environment']
        if not (isinstance(first, int) and isinstance(last, int) and 0 < first <= last < 65536
                and len(found['replace']) in (0, 2) and isinstance(found['peers'], list)
                and all('=' not in name and name for name in environment)
                and all(map(_is_text, (found['file'], *found['replace'], *found['peers'],
                                       *environment, *environment.values())))):
            raise ValueError
        return found
    except OSError as error:
        reason = error.strerror
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        reason = 'it is not what `ipc-bypass profile` writes'
    raise Unusable(f'cannot use {path}: {reason}')


def _is_text(value):
    """Return whether a value can be a path, or stand in the environment."""
    return isinstance(value, str) and '\0' not in value and value.isprintable()


def reserve(ports):
    """Return the first of the ports that nobody has, reserved; 0 where there is none."""
    for port in ports:
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            holder.bind(_NAME.format(port))
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
                # As the DDS do it: the remains of ended connections are no obstacle.
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                trial.bind(('', port))
        except OSError:
            holder.close()
            continue
        # Ours until the process ends: nobody closes it, and a command inherits it.
        os.set_inheritable(holder.detach(), True)
        return port
    return 0


def silent(hosts, port):
    """
    Return those of the hosts that do not answer a connection at once, with a line for each.

    Cyclone DDS waits in connect() for a host that is not there, for seconds, and does nothing else
    meanwhile. Left out, nothing is lost: a host that starts later announces itself to this one.
    """
    waiting, quiet = {}, []
    for host in hosts:
        connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        connection.setblocking(False)
        try:
            connection.connect((socket.gethostbyname(host), port))
        except BlockingIOError:
            waiting[connection] = host
            continue
        except ConnectionRefusedError:
            pass
        except (OSError, UnicodeError):
            quiet.append(host)
        connection.close()
    deadline = time.monotonic() + _PATIENCE
    while waiting:
        # Looked at once more after the deadline: this process may have slept meanwhile.
        _, ready, _ = select.select([], list(waiting), [], max(0, deadline - time.monotonic()))
        if not ready:
            break
        for connection in ready:
            host = waiting.pop(connection)
            code = connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code not in (0, errno.ECONNREFUSED):
                quiet.append(host)
            connection.close()
    for connection, host in waiting.items():
        quiet.append(host)
        connection.close()
    for host in quiet:
        _say(f'peer {host} does not answer: left out; it will announce itself when it starts')
    return quiet


def without_peers(text, hosts):
    """Return a profile without the lines that name ports of these hosts."""
    return ''.join(line for line in text.splitlines(keepends=True)
                   if not any(f'"{host}:' in line for host in hosts))


def own_copy(text, port, name):
    """Write what a process on this port reads, and return the path; raises Unusable."""
    stem, extension = os.path.splitext(name)
    folder = os.path.join(os.environ.get('XDG_RUNTIME_DIR') or tempfile.gettempdir(),
                          f'ipc_bypass-{os.getuid()}')
    path = os.path.join(folder, f'{stem}-{port or os.getpid()}{extension}')
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        found = os.lstat(folder)
        # In a folder that everybody may write to, somebody else may have been first.
        if found.st_uid != os.getuid() or found.st_mode & 0o7022 or os.path.islink(folder):
            raise Unusable(f"cannot use {folder}: it is not this user's alone: remove it")
        number, temporary = tempfile.mkstemp(dir=folder)
        with os.fdopen(number, 'w') as stream:
            stream.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise Unusable(f'cannot write {path}: {error.strerror}: set XDG_RUNTIME_DIR to a folder '
                       'of your own') from None
    return path


def _say(text):
    print(f'ipc-bypass run: {text}', file=sys.stderr, flush=True)


if __name__ == '__main__':
    sys.exit(main())
