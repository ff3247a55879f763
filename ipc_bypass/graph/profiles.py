"""Configurations that processes name in their environment: are they there, do they hold."""

from __future__ import annotations

from collections.abc import Iterable
import errno
import re
from xml.etree import ElementTree

from ipc_bypass.graph.foreign_files import read_text
from ipc_bypass.graph.model import Finding, Process, WARNING
from ipc_bypass.graph.reasons import run_command

_FILES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE', 'CYCLONEDDS_URI',
          'ZENOH_SESSION_CONFIG_URI', 'ZENOH_CONFIG')


def profile_findings(processes: Iterable[Process]) -> list[Finding]:
    """Return what is wrong with the configurations that processes name."""
    found = []
    for process in processes:
        for name in _FILES:
            value = process.environment.get(name, '')
            if value:
                found += _of_variable(process, name, value)
    return found


def _of_variable(process, name, value):
    where = f'{process.comm} ({process.pid})'
    text, errors = value, []
    inline = name == 'CYCLONEDDS_URI' and value.lstrip().startswith('<')
    if not inline:
        path = value.split(',')[0].strip().removeprefix('file://')
        try:
            text = read_text(process.pid, path)
        except FileNotFoundError:
            return [Finding(WARNING, name, f'{path} does not exist: the process runs with its '
                            'defaults', _again(process), where)]
        except (PermissionError, ProcessLookupError):
            return []  # of another user's process, or of one that ended: no fault of the profile's
        except OSError as error:
            if error.errno == errno.ENOSYS:
                return []  # a kernel before 5.6: there is no safe way to look
            return [_unreadable(process, name, path, error.strerror, where)]
        except ValueError as error:
            return [_unreadable(process, name, path, error, where)]
    if name.startswith('ZENOH'):
        return []
    try:
        # Cyclone takes several documents one after the other.
        root = ElementTree.fromstring(f'<all>{_without_declaration(text)}</all>')
    except ElementTree.ParseError as error:
        return [Finding(WARNING, name, f'it is no XML ({error}): the process runs with its '
                        'defaults', _again(process), where)]
    if process.kind == 'Fast DDS' and name.startswith('FAST'):
        errors = _ignored_by_fast(process, root)
    elif process.kind == 'Cyclone DDS' and name == 'CYCLONEDDS_URI':
        errors = _ignored_by_cyclone(process, root)
    return [Finding(WARNING, name, error, _again(process), where) for error in errors]


def _unreadable(process, name, path, error, where):
    return Finding(WARNING, name, f'{path} cannot be read: {error}', _again(process), where)


def _ignored_by_fast(process, root):
    """
    Yield where a Fast DDS process is not as its default profile says.

    Other profiles of the file may be anybody's, and transports that none uses are nobody's.
    """
    default = [found for value in ('true', '1')
               for found in root.findall(f'.//{{*}}participant[@is_default_profile="{value}"]')]
    used = _texts(default, '{*}rtps/{*}userTransports/{*}transport_id')
    described = [found for found in root.iterfind('.//{*}transport_descriptor')
                 if used & _texts([found], '{*}transport_id')]
    kinds = _texts(described, '{*}type')
    if kinds & {'TCPv4', 'TCPv6'} and _texts(described, '{*}listening_ports/{*}port') \
            and not _listens(process):
        yield 'the profile asks for TCP, and the process has no TCP listener: it ignores it'
    only_named = _texts(default, '{*}rtps/{*}useBuiltinTransports') & {'false', '0'}
    if kinds and only_named and 'SHM' not in kinds and process.segments:
        yield 'the profile leaves shared memory out, and the process maps it: it ignores it'


def _ignored_by_cyclone(process, root):
    """Yield where a Cyclone DDS process is not as its configuration says."""
    asked = {(element.text or '').strip().lower() for element in root.iter()
             if element.tag.rpartition('}')[2].lower() == 'transport'}
    if asked & {'tcp', 'tcp6'} and not _listens(process):
        yield 'the configuration asks for TCP, and the process has no TCP listener: it ignores it'


def _listens(process):
    return any(sock.transport == 'tcp' and sock.state in ('listen', 'established')
               for sock in process.sockets)


def _texts(elements, path):
    """Return the texts, as far as there are any, of what lies below elements by a path."""
    return {text for element in elements for found in element.iterfind(path)
            if (text := (found.text or '').strip())}


def _without_declaration(text):
    """Return XML without what may stand at its beginning only, and without entities."""
    if '<!DOCTYPE' in text:
        raise ElementTree.ParseError('a document type is not read')
    return re.sub(r'<\?xml[^>]*\?>', '', text)


def _again(process):
    command = run_command(process)
    return f'start it again with `{command}`' if command else 'correct it and start it again'
