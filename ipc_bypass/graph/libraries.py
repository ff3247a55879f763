"""Which libraries make a process a DDS or zenoh one, and what their names say of the version."""

from __future__ import annotations

from collections.abc import Iterable
import os
import re

#: (pattern of the file's name, what it is); the first that matches counts.
_KINDS = tuple((re.compile(pattern), kind) for pattern, kind in (
    (r'lib(fastdds|fastrtps)[-.\w]*\.so', 'Fast DDS'),
    (r'libddsc[-.\w]*\.so', 'Cyclone DDS'),
    (r'libnddscore\w*\.so|libnddsc\w*\.so|libnddscpp\w*\.so', 'RTI Connext'),
    (r'librti_me\w*\.so', 'RTI Connext Micro'),
    (r'libOpenDDS_Dcps\.so', 'OpenDDS'),
    (r'libgurumdds\.so', 'GurumDDS'),
    (r'libddskernel\.so|libdcpsc\.so', 'OpenSplice'),
    (r'libzenoh(c|cxx|pico|_jni)?\.so|zenoh[-.\w]*\.so|librmw_zenoh\w*\.so', 'zenoh')))
# A DDS that is in the program itself shows in none of its files but in the program's.
_PROGRAMS = {'zenohd': 'zenoh', 'rmw_zenohd': 'zenoh', 'zenoh-bridge-dds': 'zenoh',
             'zenoh-bridge-ros2dds': 'zenoh', 'rtiroutingservice': 'RTI Connext'}
#: The rmw packages there are; others are loaded by them.
RMW_NAMES = (
    'rmw_fastrtps_cpp', 'rmw_fastrtps_dynamic_cpp', 'rmw_cyclonedds_cpp', 'rmw_connextdds',
    'rmw_connextddsmicro', 'rmw_connext_cpp', 'rmw_gurumdds_cpp', 'rmw_zenoh_cpp')
_VERSION = re.compile(r'\.so\.(\d+(?:\.\d+)*)|[-_](\d+\.\d+(?:\.\d+)*)')


def kind_of(path: str) -> str:
    """Return what a mapped file makes of its process, '' for nothing."""
    name = os.path.basename(path)
    return next((kind for pattern, kind in _KINDS if pattern.match(name)),
                _PROGRAMS.get(name, ''))


def find_library(paths: Iterable[str]) -> tuple[str, str]:
    """
    Return (kind, path) of the library that carries the traffic, ('', '') where there is none.

    The rmw decides where a process has two, as one that bridges.
    """
    found: dict[str, str] = {}
    rmw = ''
    for path in paths:
        kind = kind_of(path)
        if kind:
            found.setdefault(kind, path)
        rmw = rmw or rmw_of(path)
    preferred = next((kind for word, kind in (
        ('zenoh', 'zenoh'), ('fastrtps', 'Fast DDS'), ('fastdds', 'Fast DDS'),
        ('cyclone', 'Cyclone DDS'), ('connext', 'RTI Connext'), ('gurum', 'GurumDDS'))
        if word in rmw and kind in found), '')
    kind = preferred or next(iter(found), '')
    return kind, found.get(kind, '')


def rmw_of(path: str) -> str:
    """Return the rmw whose library a file is, 'rmw_fastrtps_cpp', or ''."""
    name = os.path.basename(path).partition('.so')[0].removeprefix('lib')
    return name if name in RMW_NAMES else ''


def version_of(path: str, root: str = '') -> str:
    """
    Return the version in a library's file name, or in that of the file that it links to.

    :param root: folder that stands for '/', '/proc/PID/root' of the process that has it
    """
    try:
        real = os.readlink(root + path)
    except OSError:
        real = ''
    found = [match[1] or match[2] for name in (os.path.basename(real), os.path.basename(path))
             if (match := _VERSION.search(name)) is not None]
    return max(found, key=len, default='')
