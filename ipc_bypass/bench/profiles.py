"""
Configurations of Cyclone DDS, as text for the environment variable CYCLONEDDS_URI.

The options are those of Cyclone DDS 0.10 (docs/manual/options.md of eclipse-cyclonedds).
"""

from __future__ import annotations

# As large as a UDP datagram may be, so that UDP and TCP are compared at the same fragment size.
MAX_MESSAGE_SIZE = '65500B'
FRAGMENT_SIZE = '65000B'

# By default 1 MB: then glibc gives memory back to the kernel, and takes it again, with every
# sample of that size. With 4 MB it keeps what a graph of large samples needs. Where page faults
# are expensive, as in a virtual machine within another, that is half of a 1 MB round trip.
RECEIVE_BUFFER_SIZE = '4MB'

# Ports of plain TCP, and of TCP that rules accelerate. Each pair of peers takes two of them.
PLAIN_PORTS = range(27420, 27430)
BYPASS_PORTS = range(27400, 27410)

_MESSAGES = (f'<MaxMessageSize>{MAX_MESSAGE_SIZE}</MaxMessageSize>'
             f'<FragmentSize>{FRAGMENT_SIZE}</FragmentSize>')
_BUFFERS = f'<Sizing><ReceiveBufferSize>{RECEIVE_BUFFER_SIZE}</ReceiveBufferSize></Sizing>'


def default_udp() -> str:
    """Return Cyclone's defaults: UDP, discovery by multicast, fragments of about 1300 bytes."""
    return ''


def loopback_udp() -> str:
    """Return UDP over the loopback interface, with the sizes of the TCP profile."""
    return _domain(
        '<General><AllowMulticast>spdp</AllowMulticast>' + _MESSAGES +
        '<Interfaces><NetworkInterface address="127.0.0.1" multicast="true"/></Interfaces>'
        '</General>' + _BUFFERS)


def tcp(address: str, port: int, peer_address: str, peer_port: int) -> str:
    """
    Return TCP without multicast between two named ends.

    :param address: own IPv4 address; names the interface
    :param port: own TCP port, where this end listens
    :param peer_address: IPv4 address of the other end
    :param peer_port: TCP port of the other end
    """
    return _domain(
        '<General><Transport>tcp</Transport><AllowMulticast>false</AllowMulticast>' + _MESSAGES +
        f'<Interfaces><NetworkInterface address="{address}"/></Interfaces></General>'
        '<Discovery><ParticipantIndex>none</ParticipantIndex>'
        f'<Peers><Peer address="{peer_address}:{peer_port}"/></Peers></Discovery>'
        f'<TCP><Port>{port}</Port><NoDelay>true</NoDelay></TCP>' + _BUFFERS)


def _domain(content: str) -> str:
    """Return a configuration for any domain."""
    return f'<CycloneDDS><Domain>{content}</Domain></CycloneDDS>'
