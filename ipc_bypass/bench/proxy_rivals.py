"""
Other proxies that the gateway is compared with: how each is found, told and started.

Each is told what makes it faster for the traffic of a forward: nothing for requests, and for bulk
what our splice has, too, which is buffers of 64 KB or pipes of 1 MB.
"""

from __future__ import annotations

from collections.abc import Iterable
import os
from pathlib import Path
import shutil
import subprocess
from typing import NamedTuple

from ipc_bypass.bench.proxy_plan import HAPROXY, NGINX

#: Where Debian has nginx's stream module; elsewhere it may be built in.
STREAM_MODULE = Path('/usr/lib/nginx/modules/ngx_stream_module.so')
PACKAGES = 'apt-get install haproxy nginx libnginx-mod-stream'
# They are for root, whose programs not every user's PATH has.
_FOLDERS = os.pathsep.join((os.environ.get('PATH', os.defpath), '/usr/local/sbin', '/usr/sbin'))

_HAPROXY = """\
global
    nbthread 1
    maxconn {connections}
    maxpipes 64
    tune.pipesize 1048576
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""
_LISTEN = """\
listen forward{number}
    bind {one.listen}
    server backend {one.backend}
"""
_SPLICED = """\
    option splice-request
    option splice-response
"""
_NGINX = """\
daemon off;
# One process: a worker that is one of its own would outlive a master that is killed.
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
{module}events {{
    worker_connections {workers};
}}
stream {{
    proxy_half_close on;
"""
_SERVER = """\
    server {{
        listen {one.listen} backlog=4096;
        proxy_pass {one.backend};
        proxy_buffer_size {size}k;
    }}
"""


class Forward(NamedTuple):
    """Addresses and ports where a proxy listens and connects, and whether it is for bulk."""

    listen: str
    backend: str
    bulk: bool


def found(name: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(name, path=_FOLDERS)


def lacking() -> dict[str, str]:
    """Return why a proxy cannot be measured here, by path."""
    missing = {name: 'it is not installed' for name in (HAPROXY, NGINX) if found(name) is None}
    if NGINX not in missing and not STREAM_MODULE.exists() and not _stream_built_in():
        missing[NGINX] = 'it has no stream module'
    return missing


def command(name: str, folder: Path, forwards: Iterable[Forward],
            connections: int) -> list[str]:
    """
    Return the command line of a proxy, whose files are written to a folder.

    :param connections: that it takes at once
    """
    config = folder / f'{name}.conf'
    if name == HAPROXY:
        config.write_text(_HAPROXY.format(connections=connections + 16) + ''.join(
            _LISTEN.format(number=number, one=one) + (_SPLICED if one.bulk else '')
            for number, one in enumerate(forwards)))
        return [found(name), '-db', '-q', '-f', str(config)]
    module = f'load_module {STREAM_MODULE};\n' if STREAM_MODULE.exists() else ''
    # Two for each connection, and those that it listens with.
    config.write_text(_NGINX.format(
        folder=folder, module=module, workers=2 * connections + 64) + ''.join(
        _SERVER.format(one=one, size=64 if one.bulk else 16) for one in forwards) + '}\n')
    return [found(name), '-p', str(folder), '-e', str(folder / 'nginx.log'), '-c', str(config)]


def _stream_built_in() -> bool:
    told = subprocess.run([found(NGINX), '-V'], capture_output=True, text=True, check=False)
    return '--with-stream' in told.stderr.split()
