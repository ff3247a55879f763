"""
Find out what this machine can do, by trying each thing; never from a version number.

Nothing is kept between calls: an answer costs less than being wrong about it later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
import errno
import os
from pathlib import Path
import subprocess
import tempfile

from ipc_bypass.kernel import bpffs, capabilities, probe_kernel, syscall
from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.cgroup import find_cgroup2
from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.kernel.headers import find_headers
from ipc_bypass.kernel.loader import load_object, ProgramSpec
from ipc_bypass.kernel.loader_child import find_worker_python
from ipc_bypass.kernel.prebuilt_files import choice, prebuilt_state, VARIABLE

_PATHS = {'tcp': ('sk_msg', 'loopback'), 'udp': ('cgroup_skb', 'trace', 'loopback')}
_SK_MSG, _BOTH = ('tcp/sk_msg',), ('tcp/sk_msg', 'udp/cgroup_skb')
_TRACE = ('udp/trace',)
_CAPABILITY_PATHS = {'CAP_BPF': (*_BOTH, *_TRACE), 'CAP_NET_ADMIN': _BOTH,
                     'CAP_PERFMON': (*_BOTH, *_TRACE)}

_SMALLEST_SOURCE = """
#include <uapi/linux/bpf.h>
BPF_HASH(probe_map, __u32, __u64, 1);
int probe_program(struct bpf_sock_ops *ops) { return 1; }
"""


@dataclass(frozen=True)
class ProbeResult:
    """
    What came of one trial.

    `works` is None when it could not be tried; `errno` 0 where there is none; `minimum_kernel`
    the first release that has it, '' where that says nothing; `required_by` the paths that
    cannot do without, as 'transport/path'.
    """

    name: str
    works: bool | None
    errno: int
    reason: str
    minimum_kernel: str
    next_step: str
    needed_for: str
    required_by: tuple[str, ...] = ()


def probe_all(*, root: str | os.PathLike = '/') -> list[ProbeResult]:
    """
    Try everything and return the results in the order to show them.

    What is made for a trial (maps, programs, a cgroup, network namespaces) is gone at the end.

    :param root: where the kernel headers are looked for
    """
    results = [_attempt('bpf(2)', probe_kernel.try_bpf, '3.18', 'everything', _BOTH)]
    results += [_capability(name) for name in capabilities.WHAT_FOR]
    results += [
        _lockdown(), _unprivileged(), _jit(),
        _attempt('cgroup v2', find_cgroup2, '4.5', 'attach sock_ops, cgroup_skb', _BOTH),
        _attempt('bpffs', _writable_bpffs, '4.4', 'pins: find an earlier run again',
                 required=['CAP_BPF']),
        _attempt('BTF of the kernel', _kernel_btf, '5.4', 'redirect again after a pass'),
    ]
    results.append(_attempt('kprobes', probe_kernel.try_kprobes, '4.1',
                            'trace, where cgroup_skb cannot be had', _TRACE))
    prebuilt = _prebuilt()
    # What was compiled with the package takes neither.
    compiling = () if prebuilt.works else _BOTH
    results.append(prebuilt)
    headers = _attempt('kernel headers', lambda: _headers(root), '', 'compile the programs',
                       compiling)
    compiler = _attempt('bcc', _import_bcc, '', 'compile the programs', compiling)
    results += [headers, compiler]
    refused = [result.name for result in (results[0], headers, compiler) if not result.works]
    results.append(_attempt('compile and load with bcc', lambda: _compile(root, refused), '4.18',
                            'compile the programs', compiling))
    # Where bpf(2) is refused as a whole, another refusal would say nothing of the kernel.
    for trial in probe_kernel.trials():
        results.append(_attempt(trial.name, trial.attempt if results[0].works else _refused,
                                trial.minimum_kernel, trial.needed_for, trial.paths,
                                trial.capabilities))
    return results


def path_available(results: Iterable[ProbeResult]) -> dict[str, dict[str, dict]]:
    """
    Return for each transport and path whether it can work here.

    :param results: from `probe_all`
    :returns: {'tcp': {'sk_msg': {'available': bool, 'reason': str}, ...}, ...}; `reason` is ''
        when available, else names what is missing and the next step of the first of them
    """
    lacking: dict[str, list[ProbeResult]] = {}
    for result in results:
        if result.works is False:
            for path in result.required_by:
                lacking.setdefault(path, []).append(result)
    answer: dict[str, dict[str, dict]] = {}
    for transport, paths in _PATHS.items():
        for path in paths:
            first, *others = lacking.get(f'{transport}/{path}', [None])
            reason = ''
            if first is not None:
                more = f' (and {len(others)} more)' if others else ''
                step = f'; {first.next_step}' if first.next_step else ''
                reason = f'{first.name}: {first.reason}{more}{step}'
            answer.setdefault(transport, {})[path] = {'available': first is None,
                                                      'reason': reason}
    return answer


def _attempt(name: str, attempt: Callable[[], str | None], minimum_kernel: str, needed_for: str,
             paths: tuple[str, ...] = (), required: Iterable[str] = ('CAP_BPF', 'CAP_NET_ADMIN'),
             ) -> ProbeResult:
    """Return the result of a trial; its remark is the reason when it works."""
    works: bool | None = False
    number, step = 0, ''
    try:
        works, reason = True, attempt() or ''
    except probe_kernel.NotTried as error:
        works, reason = None, str(error)
    except BypassError as error:
        number, step = error.errno, error.next_step
        reason = f'{error.what}: {error.reason}' if error.reason else error.what
    except OSError as error:
        number = error.errno or 0
        if number in (errno.EAGAIN, errno.EINTR, errno.ENOMEM, errno.EMFILE, errno.ENFILE):
            works = None  # says something of this moment, not of the kernel
        reason, step = _explain(error, number, minimum_kernel, required)
    return ProbeResult(name, works, number, reason, minimum_kernel, step, needed_for, paths)


def _explain(error: OSError, number: int, minimum_kernel: str, required: Iterable[str],
             ) -> tuple[str, str]:
    """Return the reason for a refusal and the next step."""
    if number == errno.EPERM:
        refusal = capabilities.privilege_error('', required, number)
        return refusal.reason, refusal.next_step
    log = getattr(error, 'log', '').strip().splitlines()
    told = [line for line in log if not line.startswith(('processed', 'verification', 'stack'))]
    reason = os.strerror(number) + (f' ({told[-1]})' if told else '')
    lacking = capabilities.missing(required)
    if lacking and number in (errno.EACCES, errno.EINVAL):
        # The verifier hides helpers from who may not use them, as if the kernel had none.
        return reason, capabilities.next_step(lacking)
    return reason, f'use kernel {minimum_kernel} or later' if minimum_kernel else ''


def _capability(name: str) -> ProbeResult:
    lacking = bool(capabilities.missing([name]))
    error = capabilities.privilege_error('', [name])
    return ProbeResult(name, not lacking, errno.EPERM if lacking else 0,
                       error.reason if lacking else '', '',
                       error.next_step if lacking else '', capabilities.WHAT_FOR[name],
                       _CAPABILITY_PATHS.get(name, ()))


def _lockdown(path: str = '/sys/kernel/security/lockdown') -> ProbeResult:
    """Say whether kernel lockdown keeps programs from reading kernel memory."""
    try:
        text = Path(path).read_text()
        mode = text[text.index('[') + 1:text.index(']')]
    except (OSError, ValueError):
        mode = 'none, or not shown'
    closed = mode == 'confidentiality'
    return ProbeResult('kernel lockdown', not closed, errno.EPERM if closed else 0, mode, '5.4',
                       'boot without lockdown=confidentiality' if closed else '',
                       'redirect again after a pass, trace')


def _unprivileged() -> ProbeResult:
    """Say who may call bpf(2); information only, since capabilities decide."""
    try:
        value = Path('/proc/sys/kernel/unprivileged_bpf_disabled').read_text().strip()
    except OSError:
        value = ''
    meaning = {'0': '0: bpf(2) is open to everyone', '1': '1: CAP_BPF is needed, for good',
               '2': '2: CAP_BPF is needed'}
    return ProbeResult('unprivileged_bpf_disabled', True, 0, meaning.get(value, 'not shown'),
                       '4.4', '', 'information')


def _jit() -> ProbeResult:
    """Say whether programs run as machine code."""
    name = 'BPF just-in-time compiler'
    try:
        value = Path('/proc/sys/net/core/bpf_jit_enable').read_text().strip()
    except OSError:
        # The file is root's alone, and absent in a network namespace.
        return ProbeResult(name, None, 0, 'not shown to this process', '3.0', '', 'speed')
    on = value != '0'
    return ProbeResult(name, on, 0, '' if on else 'it is off', '3.0',
                       '' if on else 'sysctl -w net.core.bpf_jit_enable=1', 'speed')


def _writable_bpffs() -> str:
    """Pin a map in a folder of its own, in the bpffs that is there."""
    place = bpffs.find_bpffs()
    folder = bpffs.PinDirectory(os.path.join(place, f'ipc_bypass_probe_{os.getpid()}', 'pins'))
    fd = syscall.map_create(syscall.MapType.ARRAY, 4, 4, 1, name='ipcb_probe')
    try:
        folder.publish({'probe': fd})
    finally:
        os.close(fd)
        try:
            folder.remove()
            folder.path.parent.rmdir()
        except (BypassError, OSError):
            pass  # what failed first is what to tell
    return place


def _kernel_btf() -> str:
    offset = Btf.from_kernel().offset('tcp_sock', 'copied_seq')
    return f'tcp_sock.copied_seq at byte {offset}'


def _prebuilt() -> ProbeResult:
    """Say what was compiled with the package; nothing needs it where there is a compiler."""
    count, lacking = prebuilt_state()
    if choice() == 'compile':
        lacking = f'{VARIABLE} says to compile'
    return ProbeResult('prebuilt programs', None if lacking else True, 0,
                       lacking or f'{count} for {os.uname().machine}', '',
                       'python3 -m ipc_bypass.prebuilt compiles them (docs/prebuilt.md)'
                       if lacking else '', 'start without a compiler')


def _headers(root: str | os.PathLike) -> str:
    tree = find_headers(root)
    return f'{tree.release} ({tree.kind})'


def _import_bcc() -> str:
    """Import BCC, in a process of its own because of its size."""
    python = find_worker_python()
    run = subprocess.run([python, '-c', 'import bcc; print(bcc.__version__)'], timeout=60,
                         capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if run.returncode:
        lines = run.stderr.strip().splitlines() or ['it cannot be imported']
        raise BypassError('import bcc', lines[-1],
                          next_step='apt-get install --reinstall python3-bpfcc')
    return run.stdout.strip()


def _compile(root: str | os.PathLike, lacking: list[str]) -> None:
    """Compile and load the smallest program, unless something it takes is lacking."""
    if lacking:
        raise probe_kernel.NotTried('not tried without ' + ', '.join(lacking))
    with tempfile.TemporaryDirectory(prefix='ipc_bypass_probe_') as folder:
        source = Path(folder) / 'probe.bpf.c'
        source.write_text(_SMALLEST_SOURCE)
        load_object(source, {}, [ProgramSpec('probe_program', syscall.ProgType.SOCK_OPS)],
                    ['probe_map'], headers=find_headers(root)).close()


def _refused() -> None:
    raise probe_kernel.NotTried('not tried, since bpf(2) is refused')
