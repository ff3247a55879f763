"""An address and a port, as text and as sockets take them."""

from __future__ import annotations

from dataclasses import dataclass
import ipaddress
import re
import socket

from ipc_bypass.proxy.errors import ForwardError

_FORM = re.compile(r'(?:\[(?P<six>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})')
_NAME = re.compile(r'[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?')


@dataclass(frozen=True)
class Endpoint:
    """
    An address, or a name that stands for one, and a TCP port.

    '0.0.0.0' is every IPv4 address, '::' every address of both families.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """
        Return what 'host:port' or '[address]:port' names; no host means every address.

        :raises ForwardError: INVALID_ADDRESS or INVALID_PORT
        """
        found = _FORM.fullmatch(text.strip())
        if not found:
            raise ForwardError(f"read the address '{text}'", 'it is not of the form host:port',
                               code='INVALID_ADDRESS',
                               next_step='write an IPv6 address in brackets: [::1]:9090')
        if found['six'] and ':' not in found['six']:
            raise ForwardError(f"read the address '{text}'", 'what stands in brackets is no IPv6 '
                               'address', code='INVALID_ADDRESS')
        return cls.checked(found['host'] if found['six'] is None else found['six'],
                           int(found['port']))

    @classmethod
    def checked(cls, host: str, port: int) -> Endpoint:
        """Return an endpoint whose parts make sense; raises ForwardError as parse does."""
        host = host or '::'
        if not 1 <= port <= 65535:
            raise ForwardError(f'use port {port}', 'ports are 1 to 65535', code='INVALID_PORT')
        try:
            host = str(ipaddress.ip_address(host))
        except ValueError:
            # A number with dots that is no address is a mistake, not a name.
            if not _NAME.fullmatch(host) or re.fullmatch(r'[0-9.]+', host):
                raise ForwardError(f"use the address '{host}'", 'it is neither an address nor '
                                   'a name', code='INVALID_ADDRESS') from None
        return cls(host, port)

    @property
    def is_name(self) -> bool:
        """Return whether the host has to be looked up."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    def resolve(self) -> tuple[Endpoint, ...]:
        """
        Return the endpoints that the name stands for, in the resolver's order.

        :raises ForwardError: UNKNOWN_HOST
        """
        if not self.is_name:
            return (self,)
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ForwardError(f"look up '{self.host}'", error.strerror or str(error),
                               code='UNKNOWN_HOST',
                               next_step='name an address, or mend the resolver') from error
        return tuple(dict.fromkeys(Endpoint(entry[4][0], self.port) for entry in found))

    @property
    def family(self) -> socket.AddressFamily:
        """Return the family of the address."""
        return socket.AF_INET6 if ':' in self.host else socket.AF_INET

    @property
    def is_wildcard(self) -> bool:
        """Return whether it stands for every address."""
        return self.host in ('0.0.0.0', '::')

    def __str__(self) -> str:
        """Return the form that parse takes."""
        return f'[{self.host}]:{self.port}' if ':' in self.host else f'{self.host}:{self.port}'


def plain_address(host: str) -> str:
    """Return an address without the IPv6 form of an IPv4 address, and without a zone."""
    address = ipaddress.ip_address(host.partition('%')[0])
    mapped = getattr(address, 'ipv4_mapped', None)
    return str(mapped or address)


def is_local(host: str) -> bool:
    """Return whether an address is one of this network namespace."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    try:
        # Binding says what the kernel thinks, whatever the interfaces are called.
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True
