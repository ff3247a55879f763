"""
Compile and load programs with BCC in a process of its own, and hand over the descriptors.

BCC brings a compiler of more than 100 MB into the process that imports it, so the node never
does: `ipc_bypass.kernel.loader` starts this module, which ends as soon as it has answered.

The request comes as one line of JSON on a Unix socket. The answer is JSON in a file descriptor
made by the parent (a log can have any size), then one byte and the descriptors on the socket.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import sys

_LOG_STATISTICS, _LOG_STEPS = 4, 1
_FIRST_LOG_BYTES, _LAST_LOG_BYTES = 1 << 20, 1 << 28
# SCM_MAX_FD of the kernel: no message may carry more descriptors.
_MOST_DESCRIPTORS = 253


class _Failure(Exception):
    """Something failed; `answer` says what, for the parent to raise."""

    def __init__(self, kind: str, **details) -> None:
        super().__init__(kind)
        self.answer = {'ok': False, 'kind': kind, **details}


def main(arguments: list[str]) -> int:
    """
    Serve one request.

    :param arguments: numbers of two descriptors, the socket's and that of the file for the answer
    :returns: 0, also when the answer is that something failed
    """
    channel = socket.socket(fileno=int(arguments[0]))
    with channel.makefile('r', encoding='utf-8') as lines:
        request = json.loads(lines.readline())
    try:
        answer, descriptors = _serve(request)
    except _Failure as failure:
        answer, descriptors = failure.answer, []
    with os.fdopen(int(arguments[1]), 'w', encoding='utf-8') as stream:
        json.dump(answer, stream)
    socket.send_fds(channel, [b'.'], descriptors)
    return 0


def _serve(request: dict) -> tuple[dict, list[int]]:
    """Return the answer and the descriptors: of the maps, of the programs, of the BTF."""
    bcc = _import_bcc()
    text = request['text'].encode()
    try:
        module = bcc.BPF(text=text, cflags=request['flags'])
    except Exception as error:
        raise _Failure('compile', reason=str(error)) from None
    wanted = request['maps'] if request['maps'] is not None else _map_names(bcc.lib, module.module)
    maps = {name: _describe_map(bcc.lib, module.module, name) for name in wanted}
    if request.get('template'):
        return _template(bcc.lib, module.module, request['programs'], maps)
    programs = {name: _load(bcc.lib, module.module, name, prog_type, attach_type)
                for name, prog_type, attach_type in request['programs']}
    descriptors = [*(entry.pop('fd') for entry in maps.values()), *programs.values(),
                   *_btf_descriptors()]
    if len(descriptors) > _MOST_DESCRIPTORS:
        raise _Failure('internal', reason=f'{len(descriptors)} maps and programs are too many')
    return {'ok': True, 'maps': maps, 'programs': list(programs)}, descriptors


def _template(lib, module: int, programs: list, maps: dict) -> tuple[dict, list[int]]:
    """Return the instructions of functions, in which maps stand by our descriptors' numbers."""
    code = {}
    for name, _prog_type, _attach_type in programs:
        start = lib.bpf_function_start(module, name.encode())
        if not start:
            raise _Failure('no program', name=name)
        block = ctypes.string_at(start, lib.bpf_function_size(module, name.encode()))
        code[name] = block.hex()
    numbers = {name: entry.pop('fd') for name, entry in maps.items()}
    return ({'ok': True, 'maps': maps, 'programs': [], 'code': code, 'numbers': numbers},
            [*numbers.values(), *_btf_descriptors()])


def _import_bcc():
    try:
        import bcc
        bcc.lib.bcc_func_load.argtypes  # noqa: B018 (another package of that name has no such)
        return bcc
    except (ImportError, AttributeError, OSError) as error:
        raise _Failure('no bcc', reason=str(error)) from None


def _map_names(lib, module: int) -> list[str]:
    lib.bpf_table_name.restype = ctypes.c_char_p
    lib.bpf_table_name.argtypes = ctypes.c_void_p, ctypes.c_size_t
    lib.bpf_num_tables.restype = ctypes.c_size_t
    lib.bpf_num_tables.argtypes = (ctypes.c_void_p,)
    return [lib.bpf_table_name(module, index).decode()
            for index in range(lib.bpf_num_tables(module))]


def _describe_map(lib, module: int, name: str) -> dict:
    """Return the map's descriptor and the names of the structs that are its key and value."""
    fd = lib.bpf_table_fd(module, name.encode())
    if fd < 0:
        raise _Failure('no map', name=name)
    return {'fd': fd, 'key': _struct_name(lib.bpf_table_key_desc(module, name.encode())),
            'value': _struct_name(lib.bpf_table_leaf_desc(module, name.encode()))}


def _struct_name(description: bytes | None) -> str:
    """Return the name in BCC's description of a type, '' when it is no struct."""
    try:
        decoded = json.loads(description or b'""')
    except ValueError:
        return ''
    return str(decoded[0]) if isinstance(decoded, list) else ''


def _btf_descriptors() -> list[int]:
    """
    Return the descriptors of BTF objects of this process.

    BCC keeps the one that it loaded open but gives no way to ask for it, and to open one by its
    id takes CAP_SYS_ADMIN.
    """
    found = []
    for name in os.listdir('/proc/self/fd'):
        try:
            if 'btf' in os.readlink(f'/proc/self/fd/{name}'):
                found.append(int(name))
        except OSError:
            pass  # the descriptor of the listing itself
    return found


def _load(lib, module: int, name: str, prog_type: int, attach_type: int | None) -> int:
    """Load one function and return its descriptor."""
    start = lib.bpf_function_start(module, name.encode())
    if not start:
        raise _Failure('no program', name=name)

    def attempt(level: int, size: int) -> tuple[int, int, str]:
        log = ctypes.create_string_buffer(size)
        ctypes.set_errno(0)
        fd = lib.bcc_func_load(
            module, prog_type, name.encode(), start,
            lib.bpf_function_size(module, name.encode()), lib.bpf_module_license(module),
            lib.bpf_module_kern_version(module), level,
            ctypes.cast(log, ctypes.c_char_p), size, None,
            0xffffffff if attach_type is None else attach_type)
        return fd, ctypes.get_errno(), log.value.decode('utf-8', 'replace')

    fd, number, log = attempt(_LOG_STATISTICS, _FIRST_LOG_BYTES)
    if fd >= 0:
        return fd
    # Once more with every step in the log; a buffer too short for it answers ENOSPC.
    size, final = _FIRST_LOG_BYTES, number
    if number != errno.EPERM:
        while size <= _LAST_LOG_BYTES:
            fd, number, log = attempt(_LOG_STATISTICS | _LOG_STEPS, size)
            if fd >= 0:
                return fd
            if number != errno.ENOSPC:
                final = number
                break
            size *= 16
    raise _Failure('verifier', name=name, errno=final, log=log)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
