"""
Load a program file: as it was compiled with the package, or compiled now.

The compiler is not in this process: a short-lived child (`ipc_bypass.kernel.loader_worker`) does
it with BCC and hands the descriptors over a Unix socket; nothing here imports BCC.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
import errno
import os
from pathlib import Path
import re

from ipc_bypass.kernel import logs, syscall
from ipc_bypass.kernel.btf import Btf
from ipc_bypass.kernel.capabilities import missing, next_step, privilege_error
from ipc_bypass.kernel.errors import (
    BypassError,
    CompileError,
    HeadersError,
    LoaderError,
    UnsupportedError,
    VerifierError,
)
from ipc_bypass.kernel.headers import find_headers, HeaderTree
from ipc_bypass.kernel.layout import StructLayout
from ipc_bypass.kernel.loader_child import no_bcc, run_worker
from ipc_bypass.kernel.prebuilt import Prebuilt
from ipc_bypass.kernel.prebuilt_files import choice, find_prebuilt, VARIABLE
from ipc_bypass.kernel.sources import bpf_source

# Kernel headers of another release than clang's give these by the hundred.
_FLAGS = ('-Wno-macro-redefined', '-Wno-unknown-attributes', '-Wno-pragma-once-outside-header')
_INCLUDE = re.compile(r'^#include "(\w+\.bpf\.h)"$', re.MULTILINE)
# Seconds; it is 1 s here, and half a minute where the processor is emulated and busy.
_PATIENCE = 300.0
# It stands for the folder of our own headers, which a source elsewhere may include.
_OURS = 'ipc_bypass_common.h'
_REPORT = 'report this with the full log (log level debug)'
_REQUIRED = ('CAP_BPF', 'CAP_NET_ADMIN', 'CAP_PERFMON')


@dataclass(frozen=True)
class ProgramSpec:
    """A function to load: its name, `enum bpf_prog_type`, `enum bpf_attach_type` or None."""

    name: str
    prog_type: int
    attach_type: int | None = None


@dataclass(frozen=True)
class LoadedMap:
    """A map: sizes in bytes; `key` and `value` are the structs as compiled, None for numbers."""

    fd: int
    type: int  # noqa: A003
    key_size: int
    value_size: int
    max_entries: int
    key: StructLayout | None
    value: StructLayout | None


@dataclass
class LoadedObject:
    """
    What a program file became; closes its descriptors at the end of a `with` block.

    `maps` and `programs` (descriptors, closed on exec) by name, `program_info` what the kernel
    tells of each program, `layouts` the structs that are keys or values or were asked for, by
    name, `log` the compiler's warnings.
    """

    maps: dict[str, LoadedMap] = field(default_factory=dict)
    programs: dict[str, int] = field(default_factory=dict)
    program_info: dict[str, syscall.ProgInfo] = field(default_factory=dict)
    layouts: dict[str, StructLayout] = field(default_factory=dict)
    log: str = ''

    def close(self) -> None:
        """Close all descriptors; what is attached or pinned stays in the kernel."""
        for entry in self.maps.values():
            os.close(entry.fd)
        for fd in self.programs.values():
            os.close(fd)
        self.maps, self.programs = {}, {}

    def __enter__(self) -> LoadedObject:
        """Return itself."""
        return self

    def __exit__(self, *_exception) -> None:
        """Close all descriptors."""
        self.close()


def load_object(source: Path, definitions: Mapping[str, int | str],
                programs: Sequence[ProgramSpec], maps: Sequence[str], *,
                layouts: Sequence[str] = (), timeout: float = _PATIENCE,
                headers: HeaderTree | None = None) -> LoadedObject:
    """
    Create a file's maps and load programs out of it.

    What was compiled with the package is taken where there is that (`prebuilt_files`), unless
    `layouts` or `headers` are given; else the file is compiled.

    :param source: a .bpf.c file; headers beside it are found
    :param definitions: names and values as if by #define
    :param programs: the functions to load
    :param maps: names of the maps to hand over
    :param layouts: names of further structs whose layout is wanted; a program must use them
    :param timeout: seconds until the child is given up
    :param headers: kernel headers; found when left out
    :raises CompileError: when it does not compile
    :raises VerifierError: when the kernel refuses a program
    :raises PrivilegeError: when a capability is missing
    :raises HeadersError: when there are no kernel headers
    :raises UnsupportedError: when BCC, a kind of map or of program is missing
    :raises LoaderError: when the child hangs or dies
    """
    lacking = ''
    if not layouts and headers is None:
        found, lacking = select_prebuilt(source, definitions, programs)
        if found is not None:
            return found.load(programs, maps, definitions)
    try:
        loaded, _ = _compile(source, definitions, programs, maps, layouts, headers, timeout)
    except HeadersError as error:
        raise HeadersError(error.what, f'{error.reason} (and {lacking})' if lacking else
                           error.reason, next_step=error.next_step) from error
    return loaded


def select_prebuilt(source: Path, definitions: Mapping[str, int | str],
                    programs: Sequence[ProgramSpec]) -> tuple[Prebuilt | None, str]:
    """
    Return the file as it was compiled with the package; None and why where it is to be compiled.

    :raises UnsupportedError: when there is no such, and the environment says not to compile
    :raises BypassError: when the source cannot be read
    """
    source, wanted = Path(source).resolve(), choice()
    if wanted == 'compile':
        return None, ''
    found, lacking = find_prebuilt(source, read_source(source), definitions, programs)
    if found is None and wanted == 'prebuilt':
        raise UnsupportedError(f'load {source.name}', lacking, next_step=f'unset {VARIABLE}, and '
                               'see docs/prebuilt.md')
    return found, lacking


@contextmanager
def run_compiler(source: Path, definitions: Mapping[str, int | str],
                 programs: Sequence[ProgramSpec], maps: Sequence[str] | None, *,
                 layouts: Sequence[str] = (), headers: HeaderTree | None = None,
                 template: bool = False) -> Iterator[tuple[LoadedObject, dict]]:
    """
    Compile as `load_object` does, and yield what came of it and the compiler's own answer.

    :param maps: names of the maps; None: all that the file has
    :param template: load no program: the answer has `code`, the instructions of each in
        hexadecimal digits, and `numbers`, by which they name the maps
    """
    loaded, answer = _compile(source, definitions, programs, maps, layouts, headers, _PATIENCE,
                              template=template)
    with loaded:
        yield loaded, answer


def _compile(source: Path, definitions: Mapping[str, int | str], programs: Sequence[ProgramSpec],
             maps: Sequence[str] | None, layouts: Sequence[str], headers: HeaderTree | None,
             timeout: float, **request) -> tuple[LoadedObject, dict]:
    """Run the child; return what it made and what it answered."""
    source = Path(source).resolve()
    text = read_source(source)
    tree = headers or find_headers()
    tree.check()
    request |= {
        'text': text, 'maps': None if maps is None else list(maps),
        'flags': [*_FLAGS, f'-I{source.parent}', f'-I{bpf_source(_OURS).parent}',
                  *(f'-D{name}={value}' for name, value in definitions.items())],
        'programs': [[spec.name, int(spec.prog_type),
                      None if spec.attach_type is None else int(spec.attach_type)]
                     for spec in programs],
    }
    answer, descriptors, output = run_worker(request, tree.path, source.name, timeout)
    output = logs.compile_log(output, source.name)
    if not answer['ok']:
        raise _error_of(answer, output, source.name, text)
    loaded = LoadedObject(log=output)
    try:
        _fill(loaded, answer, descriptors, layouts, source.name)
    except BaseException:
        for fd in descriptors:
            os.close(fd)
        raise
    return loaded, answer


def read_source(source: Path, *, within: tuple[str, ...] = ()) -> str:
    """
    Return the text of a program file, with the files `*.bpf.h` that it includes in their places.

    They hold code that uses maps, which BCC rewrites in the main file only.

    :param within: names of the files that include this one
    :raises BypassError: when a file cannot be read, or includes itself
    """
    if source.name in within:
        raise CompileError(f'compile {within[0]}', f'{source.name} includes itself')

    def included(match: re.Match) -> str:
        line = text.count('\n', 0, match.start()) + 1
        beside = source.with_name(match[1])
        found = beside if beside.is_file() else bpf_source(match[1])
        text_of_it = read_source(found, within=(*within, source.name))
        return (f'#line 1 "{match[1]}"\n{text_of_it}\n'
                f'#line {line + 1} "{source.name}"')
    text = _read(source)
    return _INCLUDE.sub(included, text)


def _read(source: Path) -> str:
    try:
        return source.read_text(encoding='utf-8')
    except OSError as error:
        raise BypassError(f'read {source}', errno=error.errno or 0,
                          next_step='install the package again') from error


def _fill(loaded: LoadedObject, answer: dict, descriptors: list[int], layouts: Sequence[str],
          source_name: str) -> None:
    """Put the descriptors and what the kernel tells of them into `loaded`."""
    if len(descriptors) < len(answer['maps']) + len(answer['programs']):
        raise LoaderError(f'load {source_name}', f'{len(descriptors)} descriptors arrived',
                          errno=errno.EMFILE, next_step='raise the limit of open files: ulimit -n')
    map_fds = dict(zip(answer['maps'], descriptors, strict=False))
    programs = dict(zip(answer['programs'], descriptors[len(map_fds):], strict=False))
    infos = {name: syscall.prog_info(fd) for name, fd in programs.items()}
    btf = _take_btf(descriptors, len(map_fds) + len(programs))
    wanted = {*layouts, *(entry[part] for entry in answer['maps'].values()
                          for part in ('key', 'value') if entry[part])}
    found = {}
    if btf is not None:
        found = {name: StructLayout.from_btf(btf, btf.struct_id(name)) for name in sorted(wanted)}
    elif layouts:
        raise UnsupportedError(f'read the structs of {source_name}', 'the kernel took no type '
                               'information (BTF) from the compiler', next_step='kernel 5.2 or '
                               'later with BCC 0.12 or later')
    maps = {}
    for name, entry in answer['maps'].items():
        info = syscall.map_info(map_fds[name])
        maps[name] = LoadedMap(map_fds[name], info.type, info.key_size, info.value_size,
                               info.max_entries, found.get(entry['key']),
                               found.get(entry['value']))
    loaded.maps, loaded.programs, loaded.program_info = maps, programs, infos
    loaded.layouts = found


def _take_btf(descriptors: list[int], keep: int) -> Btf | None:
    """Return the type information that the compiler wrote; `keep` descriptors are left."""
    found = None
    while len(descriptors) > keep:
        fd = descriptors.pop()
        try:
            found = Btf(syscall.btf_data(fd))
        finally:
            os.close(fd)
    return found


def _error_of(answer: dict, output: str, source_name: str, text: str) -> BypassError:
    """Return the error for the answer of a child that failed."""
    kind = answer['kind']
    if kind == 'no bcc':
        return no_bcc(answer['reason'])
    if kind == 'verifier':
        log = logs.verifier_log(answer['log'], source_name, text)
        what, number = f'load program {answer["name"]} of {source_name}', answer['errno']
        if number == errno.EPERM and not logs.verifier_reason(log):
            return privilege_error(what, _REQUIRED, number, log=log)
        if number == errno.EINVAL and not log.strip():
            return UnsupportedError(what, 'the kernel does not know this kind of program',
                                    errno=number, next_step='see: ipc-bypass doctor')
        lacking = missing(_REQUIRED)
        return VerifierError(what, logs.verifier_reason(log) or os.strerror(number),
                             errno=number, log=log,
                             next_step=next_step(lacking) if lacking else _REPORT)
    if kind == 'compile':
        return _compile_error(output, source_name)
    lost = {'no map': 'map', 'no program': 'function'}.get(kind)
    reason = f'it has no {lost} {answer["name"]}' if lost else str(answer.get('reason'))
    return LoaderError(f'load {source_name}', reason, log=output)


def _compile_error(output: str, source_name: str) -> BypassError:
    """Return the error for what BCC calls a failed compilation, which includes map creation."""
    match = re.search(r'could not open bpf map: (?P<name>[^,]+), error: (?P<reason>.*)', output)
    if match:
        what = f'create map {match["name"]} of {source_name}'
        number = next((number for number in errno.errorcode
                       if os.strerror(number) == match['reason'].strip()), 0)
        if number == errno.EPERM:
            return privilege_error(what, _REQUIRED, number, log=output)
        if number == errno.EINVAL:
            return UnsupportedError(what, 'the kernel knows no such map, or not of this size',
                                    errno=number, log=output, next_step='see: ipc-bypass doctor')
        return BypassError(what, match['reason'], errno=number, log=output,
                           next_step='make it smaller')
    reason = logs.compile_reason(output)
    return CompileError(f'compile {source_name}', reason or 'the compiler failed', log=output,
                        next_step=_REPORT)
