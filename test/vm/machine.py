"""
A virtual machine that runs a command on a kernel of Debian, in the host's file system.

qemu emulates the processor (no KVM is needed) and hands the host's root file system to the
machine by 9p, read-only; the machine lays memory over it. So the command finds this very
repository, Python, BCC, and everything else of the host, but another kernel.
"""

import contextlib
from dataclasses import dataclass
import os
from pathlib import Path
import shlex
import shutil
import subprocess
import tempfile
import time

from vm import initramfs, kernel
from vm.tsc import counter_khz

#: Seconds until the machine is given up, unless told otherwise.
PATIENCE = 600.0
_MEMORY = '2G'
_IDLE = ('chrt', '--idle', '0')
# What is emulated takes its time (support.waiting, kernel.loader), all the more where others
# come first.
_PATIENCE_IN, _PATIENCE_IN_IDLE = '4', '12'
# What takes the emulator long and no test needs: wide registers, a fifth level of page tables,
# checks of the page tables' user bit.
_PROCESSOR = 'max,avx=off,avx2=off,f16c=off,fma=off,la57=off,smap=off,smep=off'
# The same for the kernel; and reading the emulated timers is slow, the processor's counter is not.
_ARGUMENTS = ('console=ttyS0 rdinit=/init panic=-1 quiet mitigations=off nopti nokaslr '
              'norandmaps tsc=reliable clocksource=tsc')


@dataclass(frozen=True)
class Result:
    """
    What came of a command in the machine.

    `status` is its exit code, None where the machine ended before it did; `output` what it
    printed, `console` what the kernel printed.
    """

    status: int | None
    output: str
    console: str


def missing():
    """Return the programs that the machine needs and this host lacks, with their packages."""
    found = {'qemu-system-x86_64': 'qemu-system-x86', 'busybox': 'busybox-static',
             'dpkg-deb': 'dpkg', 'apt-get': 'apt', 'chrt': 'util-linux'}
    return [f'{name} (apt-get install {package})' for name, package in found.items()
            if shutil.which(name) is None]


def run(command, *, exchange, version='6.1', environment=None, timeout=PATIENCE, live=None,
        where=None, idle=False, stop=None):
    """
    Boot, run a command as root, power off, and return the Result.

    :param command: the words of a command, found on the host's file system
    :param exchange: a folder of the host, which the command has as /exchange, for results
    :param version: of the kernel, one of kernel.RELEASES
    :param environment: further variables; those of this process are the command's, too
    :param timeout: seconds until the machine is ended
    :param live: a binary stream that is to have the output as it comes
    :param where: the folder in which the command starts, this process's own when left out
    :param idle: take only what processor time nobody else wants
    :param stop: a threading.Event that ends the machine
    :raises kernel.NoKernelError: when there is no kernel to boot
    """
    exchange = Path(exchange)
    booted = kernel.debian_kernel(version)
    for name in ('output', 'status'):
        (exchange / name).unlink(missing_ok=True)
    _write_command(exchange / 'command', command,
                   {**os.environ, 'IPC_BYPASS_TEST_PATIENCE':
                    _PATIENCE_IN_IDLE if idle else _PATIENCE_IN, **(environment or {})},
                   where or os.getcwd())
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_machine_') as folder:
        first = Path(folder, 'initramfs')
        first.write_bytes(initramfs.build(booted.modules))
        console = Path(folder, 'console')
        with open(console, 'wb') as stream:
            process = subprocess.Popen([*(_IDLE if idle else ()),
                                        *_qemu(booted.image, first, exchange)],
                                       stdout=stream, stdin=subprocess.DEVNULL,
                                       stderr=subprocess.STDOUT, start_new_session=idle)
            try:
                if idle:
                    _yield_group(process.pid)
                if not _ends(process, timeout, exchange / 'output', live, stop):
                    stream.write(f'\nmachine: ended after {timeout:g} s\n'.encode())
            finally:
                process.kill()
                process.wait()
        return Result(_status(exchange / 'status'), _text(exchange / 'output'), _text(console))


def _yield_group(pid):
    """Let other sessions' processes come first, too, where the kernel shares by sessions."""
    with contextlib.suppress(OSError):
        Path(f'/proc/{pid}/autogroup').write_text('19')


def _ends(process, timeout, output, live, stop):
    """Wait for the machine's end, with its output shown meanwhile; return whether it came."""
    deadline, shown = time.monotonic() + timeout, 0
    ended = False
    while not ended and time.monotonic() < deadline and not (stop and stop.is_set()):
        try:
            process.wait(0.2)
            ended = True
        except subprocess.TimeoutExpired:
            pass
        if live and output.exists():
            with open(output, 'rb') as stream:
                stream.seek(shown)
                text = stream.read()
            shown += len(text)
            live.write(text)
            live.flush()
    return ended


def _qemu(image, first, exchange):
    """Return the words that start the machine; it ends by itself when its kernel panics."""
    rate = counter_khz()
    arguments = f'{_ARGUMENTS} tsc_early_khz={rate}' if rate else _ARGUMENTS
    return [
        'qemu-system-x86_64', '-accel', 'tcg,thread=multi,tb-size=512', '-cpu', _PROCESSOR,
        '-smp', '2', '-m', _MEMORY, '-nodefaults', '-no-user-config', '-no-reboot',
        '-display', 'none', '-serial', 'stdio',
        '-kernel', str(image), '-initrd', str(first),
        '-append', arguments,
        '-fsdev', 'local,id=host,path=/,security_model=none,readonly=on,multidevs=remap',
        '-device', 'virtio-9p-pci,fsdev=host,mount_tag=host',
        '-fsdev', f'local,id=exchange,path={exchange},security_model=none',
        '-device', 'virtio-9p-pci,fsdev=exchange,mount_tag=exchange',
        '-device', 'virtio-rng-pci',
    ]


def _write_command(path, command, environment, where):
    """Write the script that the machine runs: the environment, this folder, the command."""
    lines = [f'export {name}={shlex.quote(value)}' for name, value in environment.items()
             if name.isidentifier()]
    path.touch(mode=0o600)  # the environment may hold what is nobody else's affair
    path.write_text('\n'.join([*lines, f'cd {shlex.quote(str(where))}',
                               f'exec {shlex.join(map(str, command))}', '']))


def _status(path):
    text = _text(path).strip()
    return int(text) if text else None


def _text(path):
    try:
        return path.read_text(errors='replace')
    except FileNotFoundError:
        return ''
