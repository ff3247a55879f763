"""What other processes name and are called: profiles in their environment, lines of /proc."""

from ipc_bypass.graph.model import Process, Socket
from ipc_bypass.graph.processes import domains_of
from ipc_bypass.graph.profiles import _of_variable
from ipc_bypass.graph.sockets import parse_line
from ipc_bypass.kernel.errors import PoolError
from ipc_bypass.pool.access import Access
from ipc_bypass.udp.destinations import _addresses_of
from mutations import only, Values

LONGEST = 2048
_TRIE = b"""Main:
  +-- 0.0.0.0/0 3 0 5
        |-- 10.124.0.1
           /32 host LOCAL
        |-- 10.124.0.255
           /32 link BROADCAST
Local:
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.1
           /32 host LOCAL
Id 100:
        |-- 10.9.9.9
           /32 host LOCAL
"""
_INET6 = b"""fd000124000000000000000000000001 02 40 00 80     eth0
fe800000000000000000000000000002 02 40 20 40     eth0
"""
_UDP = ('  12: 0100007F:1CF2 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000 0 41 2 '
        '0 7')
_TCP6 = ('   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A '
         '00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0')
_XML = """<?xml version="1.0"?><dds xmlns="http://www.eprosima.com"><profiles>
<transport_descriptors><transport_descriptor><transport_id>t</transport_id><type>TCPv4</type>
<listening_ports><port>7400</port></listening_ports></transport_descriptor></transport_descriptors>
<participant is_default_profile="true"><rtps><userTransports><transport_id>t</transport_id>
</userTransports><useBuiltinTransports>false</useBuiltinTransports></rtps></participant></profiles>
</dds>"""


def seeds():
    """Yield each, with a byte that says what it is."""
    yield b'\0' + _XML.encode()
    yield (b'\0<CycloneDDS><Domain><General><Transport>tcp</Transport></General></Domain>'
           b'</CycloneDDS>')
    yield b'\0<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'
    yield b'\0' + b'<a>' * 600
    yield b'\1' + _UDP.encode()
    yield b'\2' + _TCP6.encode()
    yield b'\3' + _TRIE + b'\0' + _INET6
    yield b'\4/proc/self/fd/0'
    yield b'\5' + b'root'


def one(data):
    """Read it by what the first byte says: there is an answer, or the error that is meant."""
    values = Values(data)
    kind = values.number() % 6
    content = values.rest()
    text = content.decode('utf-8', 'replace')
    if kind == 0:
        for name, process in (('CYCLONEDDS_URI', 'Cyclone DDS'),
                              ('FASTDDS_DEFAULT_PROFILES_FILE', 'Fast DDS')):
            shown = '<' + text.lstrip('<') if process == 'Cyclone DDS' else text[:100]
            for finding in _of_variable(Process(1, 'init', process, ''), name,
                                        shown.replace('\0', '')):
                assert finding.reason
    elif kind in (1, 2):
        found = parse_line(text, 'udp' if kind == 1 else 'tcp6')
        if found is not None:
            assert isinstance(found, Socket)
            domains_of(Process(1, 'init', 'Fast DDS', '', sockets=[found]))
    elif kind == 3:
        trie, _, inet6 = content.partition(b'\0')
        found = only((ValueError, IndexError), _addresses_of, trie, inet6)
        assert found is None or all(isinstance(raw, bytes) for raw in found)
    else:
        only(PoolError, Access, text.replace('\0', ''))
