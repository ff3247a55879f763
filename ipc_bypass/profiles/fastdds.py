"""
The profile of Fast DDS, as XML: discovery by UDP, data by TCP.

Elements are those of Fast DDS 2.6 to 3.x (docs: XML profiles, TCP transport). That data takes TCP
alone is said by defaultUnicastLocatorList; a second transport there would carry all of it again.
"""

from __future__ import annotations

import os

from ipc_bypass.profiles.settings import MESSAGE_BYTES, Settings
from ipc_bypass.rules.rtps import PARTICIPANT_GAIN, udp_ports

FILE = 'fastdds.xml'
RMW = 'rmw_fastrtps_cpp'
#: How many processes of each peer the discovery finds without multicast.
_PARTICIPANTS_OF_A_PEER = 20
# By default 3 s. Announcements go to each process that is known, by UDP and by TCP, which is most
# of the CPU time of many idle ones. Three in a row may be lost within the 20 s of the lease.
_ANNOUNCEMENT_SECONDS = 5
# Later ones warn of the name that these look for.
_WITH_FAST_DDS_2 = ('humble', 'iron', 'jazzy')
#: Of the shared-memory segment: four images of 6 MB, and what goes beside them.
_SEGMENT_BYTES = 64 << 20


def profile(settings: Settings) -> str:
    """Return the XML; the port is taken from IPC_BYPASS_PORT at the start of a process."""
    transports = ['ipc_bypass_tcp', 'ipc_bypass_udp']
    # Of two transports that reach a process on this host, shared memory is taken alone.
    if settings.shared_memory:
        transports.insert(0, 'ipc_bypass_shm')
    lines = f"""<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles">
  <profiles>
    <transport_descriptors>
{_tcp(settings)}
{_udp(settings)}
{_shared_memory() if settings.shared_memory else ''}
    </transport_descriptors>
    <participant profile_name="ipc_bypass" is_default_profile="true">
      <rtps>
        <useBuiltinTransports>false</useBuiltinTransports>
{_element('userTransports', [f'<transport_id>{name}</transport_id>' for name in transports], 8)}
{_locators(settings)}
{_builtin(settings)}
      </rtps>
    </participant>
  </profiles>
</dds>
""".splitlines()
    # Parts that are left out leave empty lines.
    return ''.join(f'{line}\n' for line in lines if line)


def environment(path: str) -> dict[str, str]:
    """Return what a process needs to find the profile at `path`."""
    found = {'RMW_IMPLEMENTATION': RMW, 'FASTDDS_DEFAULT_PROFILES_FILE': path}
    if os.environ.get('ROS_DISTRO') in _WITH_FAST_DDS_2:
        found['FASTRTPS_DEFAULT_PROFILES_FILE'] = path
    return found


def _tcp(settings: Settings) -> str:
    # Fast DDS writes to a socket under a lock that its reader needs: two processes that send
    # much to each other would wait for each other for ever. So it is told not to block: what
    # finds no room is repaired by the reliable protocol. It compares with the bytes in the queue,
    # and the kernel with their memory, so that a send to a reader that stands still may wait all
    # the same. A CRC adds nothing to TCP on one host.
    return f"""      <transport_descriptor>
        <transport_id>ipc_bypass_tcp</transport_id>
        <type>TCPv4</type>
        <sendBufferSize>{settings.buffer_bytes}</sendBufferSize>
        <receiveBufferSize>{settings.buffer_bytes}</receiveBufferSize>
        <maxMessageSize>{MESSAGE_BYTES}</maxMessageSize>
        <non_blocking_send>true</non_blocking_send>
{_whitelist(settings)}
        <listening_ports><port>${{IPC_BYPASS_PORT}}</port></listening_ports>
        <calculate_crc>false</calculate_crc>
        <check_crc>false</check_crc>
        <enable_tcp_nodelay>true</enable_tcp_nodelay>
      </transport_descriptor>"""


def _udp(settings: Settings) -> str:
    return f"""      <transport_descriptor>
        <transport_id>ipc_bypass_udp</transport_id>
        <type>UDPv4</type>
{_whitelist(settings)}
      </transport_descriptor>"""


def _shared_memory() -> str:
    return f"""      <transport_descriptor>
        <transport_id>ipc_bypass_shm</transport_id>
        <type>SHM</type>
        <segment_size>{_SEGMENT_BYTES}</segment_size>
      </transport_descriptor>"""


def _whitelist(settings: Settings) -> str:
    if not settings.address:
        return ''
    return ('        <interfaceWhiteList>'
            f'<address>{settings.address}</address></interfaceWhiteList>')


def _locators(settings: Settings) -> str:
    """Return where data is received: by TCP alone, else wherever Fast DDS thinks."""
    # XML has no name for a locator of shared memory, so that it can only be had with all others.
    # Two processes that share /dev/shm use that alone then; others get data twice, by TCP and UDP.
    if settings.shared_memory:
        return ''
    locators = ['<locator><tcpv4><address>0.0.0.0</address><physical_port>0</physical_port>'
                '<port>0</port></tcpv4></locator>']
    if settings.udp_peers:
        locators.append('<locator><udpv4><address>0.0.0.0</address></udpv4></locator>')
    return _element('defaultUnicastLocatorList', locators, 8)


def _builtin(settings: Settings) -> str:
    """Return how a process is announced: how often, and where beside the multicast group."""
    parts = ['          <discovery_config><leaseAnnouncement>'
             f'<sec>{_ANNOUNCEMENT_SECONDS}</sec></leaseAnnouncement></discovery_config>']
    if settings.peers:
        first = udp_ports(settings.domain)[0][0]
        ports = range(first, first + PARTICIPANT_GAIN * _PARTICIPANTS_OF_A_PEER, PARTICIPANT_GAIN)
        locators = [f'<locator><udpv4><address>{peer}</address><port>{port}</port></udpv4>'
                    '</locator>' for peer in settings.peers for port in ports]
        # An explicit list replaces the group.
        locators.append('<locator><udpv4><address>239.255.0.1</address></udpv4></locator>')
        parts.append(_element('initialPeersList', locators, 10))
    return '\n'.join(['        <builtin>', *parts, '        </builtin>'])


def _element(name: str, lines: list[str], indent: int) -> str:
    """Return an element with a line for each of its children."""
    margin = ' ' * indent
    return '\n'.join([f'{margin}<{name}>', *(f'{margin}  {line}' for line in lines),
                      f'{margin}</{name}>'])
