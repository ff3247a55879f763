"""What is needed of libxdp.so.1 and libbpf.so.1, by ctypes; both are asked for only when used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
import ctypes
import errno
import os
import threading

from ipc_bypass.xdp.errors import DispatcherError

#: enum xdp_attach_mode by our words.
MODES = {'native': 1, 'generic': 2, 'offload': 3}
_ACTIONS = ('ABORTED', 'DROP', 'PASS', 'TX', 'REDIRECT')
_PACKAGE = 'apt-get install libxdp1 (or xdp-tools), or unload its programs: xdp-loader unload -a'
_PRINT = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_pointer, _int, _text = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_XDP = {
    'xdp_multiprog__get_from_ifindex': (_pointer, _int),
    'xdp_multiprog__next_prog': (_pointer, _pointer, _pointer),
    'xdp_multiprog__is_legacy': (ctypes.c_bool, _pointer),
    'xdp_multiprog__close': (None, _pointer),
    'xdp_program__from_bpf_obj': (_pointer, _pointer, _text),
    'xdp_program__name': (_text, _pointer),
    'xdp_program__id': (ctypes.c_uint32, _pointer),
    'xdp_program__run_prio': (ctypes.c_uint, _pointer),
    'xdp_program__set_run_prio': (_int, _pointer, ctypes.c_uint),
    'xdp_program__chain_call_enabled': (ctypes.c_bool, _pointer, _int),
    'xdp_program__attach': (_int, _pointer, _int, _int, ctypes.c_uint),
    'xdp_program__detach': (_int, _pointer, _int, _int, ctypes.c_uint),
    'xdp_program__close': (None, _pointer),
    'libxdp_get_error': (ctypes.c_long, _pointer),
    'libxdp_set_print': (_pointer, _PRINT),
}
_BPF = {
    'bpf_object__open_mem': (_pointer, _pointer, ctypes.c_size_t, _pointer),
    'bpf_object__find_map_by_name': (_pointer, _pointer, _text),
    'bpf_object__close': (None, _pointer),
    'bpf_map__reuse_fd': (_int, _pointer, _int),
    'libbpf_set_print': (_pointer, _PRINT),
}
# The libraries are told where to print for the whole process.
_lock = threading.Lock()


class LibXdp:
    """The libraries; make it by `opened`. Its methods act in the calling thread's namespace."""

    def __init__(self) -> None:
        """Load them; raises DispatcherError naming the package where they are missing."""
        try:
            self._bpf, self._xdp = ctypes.CDLL('libbpf.so.1'), ctypes.CDLL('libxdp.so.1')
            for library, functions in ((self._xdp, _XDP), (self._bpf, _BPF)):
                for name, (result, *arguments) in functions.items():
                    function = getattr(library, name)
                    function.restype, function.argtypes = result, arguments
        except (OSError, AttributeError) as error:
            raise DispatcherError("use libxdp's dispatcher", f'libxdp cannot be had ({error})',
                                  errno=errno.ENOENT, next_step=_PACKAGE) from error
        self.said: list[str] = []
        format_into = ctypes.CDLL(None).vsnprintf
        format_into.argtypes = [_pointer, ctypes.c_size_t, _text, _pointer]

        @_PRINT
        def keep(level: int, words: bytes, values: int) -> int:
            if level == 0:  # warnings
                line = ctypes.create_string_buffer(512)
                format_into(line, len(line), words, values)
                self.said.append(line.value.decode('utf-8', 'replace').strip())
            return 0

        self._keep = keep
        self._before = (self._xdp.libxdp_set_print(keep), self._bpf.libbpf_set_print(keep))

    def programs(self, index: int) -> list[tuple[int, str, int, tuple[str, ...]]]:
        """Return (id, name, priority, actions that go on) of a dispatcher's; raises OSError."""
        with self._group(index) as group:
            return [(self._xdp.xdp_program__id(program),
                     self._xdp.xdp_program__name(program).decode(),
                     self._xdp.xdp_program__run_prio(program),
                     tuple(name for number, name in enumerate(_ACTIONS)
                           if self._xdp.xdp_program__chain_call_enabled(program, number)))
                    for program in self._members(group)]

    def add(self, index: int, content: bytes, section: str, maps: dict[str, int], mode: str,
            priority: int) -> int:
        """
        Add the program of an object file to the dispatcher and return its id; raises OSError.

        :param maps: descriptors for maps of the file, by name
        """
        buffer = ctypes.create_string_buffer(content, len(content))
        file = self._bpf.bpf_object__open_mem(buffer, len(content), None)
        if not file:
            raise OSError(errno.EINVAL, 'libbpf does not take the object file')
        program = None
        try:
            for name, fd in maps.items():
                self._check(self._bpf.bpf_map__reuse_fd(
                    self._bpf.bpf_object__find_map_by_name(file, name.encode()), fd))
            program = self._checked(
                self._xdp.xdp_program__from_bpf_obj(file, section.encode()))
            self._check(self._xdp.xdp_program__set_run_prio(program, priority))
            self._check(self._xdp.xdp_program__attach(program, index, MODES[mode], 0))
            return self._xdp.xdp_program__id(program)
        finally:
            if program:
                self._xdp.xdp_program__close(program)
            self._bpf.bpf_object__close(file)

    def remove(self, index: int, identifier: int, mode: str) -> bool:
        """Take a program out of the dispatcher; return whether it was there; raises OSError."""
        with self._group(index) as group:
            for program in self._members(group):
                if self._xdp.xdp_program__id(program) == identifier:
                    self._check(self._xdp.xdp_program__detach(program, index, MODES[mode], 0))
                    return True
        return False

    def close(self) -> None:
        """Let the libraries print as before."""
        for library, name, before in ((self._xdp, 'libxdp_set_print', self._before[0]),
                                      (self._bpf, 'libbpf_set_print', self._before[1])):
            getattr(library, name)(ctypes.cast(before, _PRINT))

    @contextmanager
    def _group(self, index: int) -> Iterator[int | None]:
        """Yield what is on an interface, None where it is no dispatcher that libxdp knows."""
        group = self._xdp.xdp_multiprog__get_from_ifindex(index)
        number = self._xdp.libxdp_get_error(group)
        if number or not group:
            if -number in (0, errno.ENOENT):
                yield None
                return
            raise OSError(-number, os.strerror(-number))
        try:
            yield None if self._xdp.xdp_multiprog__is_legacy(group) else group
        finally:
            self._xdp.xdp_multiprog__close(group)

    def _members(self, group: int | None) -> Iterator[int]:
        program = self._xdp.xdp_multiprog__next_prog(None, group) if group else None
        while program:
            yield program
            program = self._xdp.xdp_multiprog__next_prog(program, group)

    def _checked(self, pointer: int | None) -> int:
        self._check(self._xdp.libxdp_get_error(pointer) or (0 if pointer else -errno.ENOMEM))
        return pointer

    @staticmethod
    def _check(number: int) -> None:
        if number < 0:
            raise OSError(-number, os.strerror(-number))


@contextmanager
def opened() -> Iterator[LibXdp]:
    """Yield the libraries, for one thread at a time; raises DispatcherError."""
    with _lock:
        library = LibXdp()
        try:
            yield library
        finally:
            library.close()
