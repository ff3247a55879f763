"""
The profile of Cyclone DDS, as XML: everything by TCP, discovery too.

The options are those of Cyclone DDS 0.10 (docs/manual/options.md of eclipse-cyclonedds). Cyclone
has no discovery by UDP beside data by TCP, so that a process announces itself to each port of
each peer where another may listen.
"""

from __future__ import annotations

from ipc_bypass.profiles.settings import MESSAGE_BYTES, Settings

FILE = 'cyclonedds.xml'
RMW = 'rmw_cyclonedds_cpp'
#: Ports of this host, and of each peer, that are tried: more processes need a longer list, which
#: all of them go through every time that they announce themselves. A closed port of a host that
#: is there costs nothing; one of a host that went away costs seconds.
PORTS_HERE, PORTS_OF_A_PEER = 50, 8
LOOPBACK = '127.0.0.1'
_FRAGMENT_BYTES = 65000

# With 1 MB, the default, glibc gives the memory of such a buffer back to the kernel, and takes
# it again, with every sample of that size: half of a 1 MB round trip where page faults are dear.
_RECEIVE_BUFFER = '4MB'


def profile(settings: Settings) -> str:
    """Return the XML; the port is taken from IPC_BYPASS_PORT at the start of a process."""
    interfaces = ''
    if settings.address:
        interfaces = ('\n      <Interfaces>'
                      f'<NetworkInterface address="{settings.address}"/></Interfaces>')
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<CycloneDDS xmlns="https://cdds.io/config">
  <Domain Id="any">
    <General>
      <Transport>tcp</Transport>
      <AllowMulticast>false</AllowMulticast>
      <MaxMessageSize>{MESSAGE_BYTES}B</MaxMessageSize>
      <FragmentSize>{_FRAGMENT_BYTES}B</FragmentSize>{interfaces}
    </General>
    <Discovery>
      <ParticipantIndex>none</ParticipantIndex>
      <Peers>
{_peers(settings)}
      </Peers>
    </Discovery>
    <TCP>
      <Port>${{IPC_BYPASS_PORT:-0}}</Port>
      <NoDelay>true</NoDelay>
    </TCP>
    <Sizing>
      <ReceiveBufferSize>{_RECEIVE_BUFFER}</ReceiveBufferSize>
    </Sizing>
  </Domain>
</CycloneDDS>
"""


def environment(path: str) -> dict[str, str]:
    """Return what a process needs to find the profile at `path`."""
    return {'RMW_IMPLEMENTATION': RMW, 'CYCLONEDDS_URI': f'file://{path}'}


def _peers(settings: Settings) -> str:
    here = settings.address or LOOPBACK
    ends = [(here, port) for port in settings.ports[:PORTS_HERE]]
    ends += [(peer, port) for peer in settings.peers if peer != here
             for port in settings.ports[:PORTS_OF_A_PEER]]
    return '\n'.join(f'        <Peer address="{host}:{port}"/>' for host, port in ends)
