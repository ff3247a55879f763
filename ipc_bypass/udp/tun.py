"""TUN devices that end with the process (uapi/linux/if_tun.h), set up by rtnetlink."""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import errno
import fcntl
import ipaddress
import os
from pathlib import Path
import struct
import time

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.udp.fragments import SMALLEST_MTU
from ipc_bypass.udp.raw import inside

#: The largest packet that IP's length field allows, and so the largest MTU of a TUN device.
LARGEST_MTU = 65535
#: A packet read from a device has at most so many bytes: IPv6 does not count its header.
READ_BYTES = LARGEST_MTU + 40

_CLONE_DEVICE = '/dev/net/tun'
_TUNSETIFF = 0x400454ca
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_NAME_BYTES = 15  # IFNAMSIZ without the ending zero
_RTF_LOCAL = 0x80000000  # uapi/linux/ipv6_route.h
#: Seconds; what takes longer is not waited for.
_PATIENCE = 2.0
#: Packets that may wait to be read; of 64 KB each, that is 640 MB of the kernel's memory.
QUEUE_PACKETS = 10_000


class DeviceError(BypassError):
    """A TUN device could not be made or set up."""


class TunDevice:
    """
    A TUN device, up, with addresses and routes; there from the constructor to close().

    It is not persistent: the kernel removes it, and its routes, when the process ends. It makes
    no link-local address, so that nobody but its users sends packets into it.

    :param name: of the interface, at most 15 bytes
    :param namespace: '' for this process's own, a name as in `ip netns`, or a path as
        /proc/PID/ns/net
    :param addresses: with prefix length, as '10.9.0.1/24'
    :param routes: prefixes whose traffic goes into the device
    :param mtu: bytes, SMALLEST_MTU to LARGEST_MTU
    :param queue_packets: packets that may wait to be read; more are dropped, and counted
    :param accept_local: let packets in whose source is an address of its namespace (IPv4)
    """

    def __init__(self, name: str, *, namespace: str = '', addresses: Iterable[str] = (),
                 routes: Iterable[str] = (), mtu: int = LARGEST_MTU,
                 queue_packets: int = QUEUE_PACKETS, accept_local: bool = False) -> None:
        """Raise DeviceError, and leave nothing behind."""
        self.name, self.mtu, self._queue = name, mtu, queue_packets
        self.namespace = namespace_path(namespace)
        self._what = f'make the TUN device {name}'
        if not SMALLEST_MTU <= mtu <= LARGEST_MTU:
            raise DeviceError(self._what, f'an MTU of {mtu} bytes',
                              next_step=f'use {SMALLEST_MTU} to {LARGEST_MTU}')
        if not 0 < len(name.encode()) <= _NAME_BYTES or '/' in name or name != name.strip():
            raise DeviceError(self._what, 'no name of an interface',
                              next_step=f'use 1 to {_NAME_BYTES} letters and digits')
        interfaces = [self._parsed(ipaddress.ip_interface, text) for text in addresses]
        networks = [self._parsed(ipaddress.ip_network, text) for text in routes]
        #: Its addresses, as 4 or 16 bytes.
        self.addresses = frozenset(interface.ip.packed for interface in interfaces)
        self._fd = -1
        try:
            self._run(lambda: self._make(interfaces, networks, accept_local))
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, which does not block: one packet a read or write."""
        return self._fd

    def statistics(self) -> dict[str, int]:
        """
        Return what the kernel counted, in packets, {} where the device is gone.

        `queue_dropped` are packets that came faster than they were read, `refused` those
        written that the kernel could not take in.
        """
        with contextlib.suppress(BypassError):
            for line in self._run(_read_device_lines):
                name, _, numbers = line.partition(':')
                if name.strip() == self.name:
                    fields = [int(number) for number in numbers.split()]
                    return {'refused': fields[2] + fields[3],
                            'queue_dropped': fields[10] + fields[11]}
        return {}

    def close(self) -> None:
        """Remove the device; once more is no error."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _run(self, function):
        """Run a function in the device's namespace; raises DeviceError."""
        try:
            return inside(self.namespace, function)
        except OSError as error:
            raise DeviceError(self._what, errno=error.errno or errno.EIO,
                              next_step=_NEXT_STEPS.get(error.errno, '')) from error

    def _parsed(self, make, text):
        try:
            return make(text)
        except ValueError as error:
            raise DeviceError(self._what, str(error),
                              next_step='write it as 10.9.0.0/16 or fd00:9::/64') from None

    def _make(self, interfaces, networks, accept_local):
        """Make it and set it up; runs in its namespace."""
        self._fd = os.open(_CLONE_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        fcntl.ioctl(self._fd, _TUNSETIFF, struct.pack(
            '16sH22x', self.name.encode(), _IFF_TUN | _IFF_NO_PI))
        self._write_setting('ipv6', 'addr_gen_mode', 1)
        if accept_local:
            self._write_setting('ipv4', 'accept_local', 1)
            self._write_setting('ipv4', 'rp_filter', 0)
        self._set_up(interfaces, networks)
        _wait_for_local_routes(interface.ip.packed for interface in interfaces
                               if interface.version == 6)

    def _set_up(self, interfaces, networks):
        # Not at the top: it takes 0.1 s, and only this node needs it.
        from pyroute2 import IPRoute
        from pyroute2.netlink.exceptions import NetlinkError
        try:
            with IPRoute() as route:
                index, = route.link_lookup(ifname=self.name)
                route.link('set', index=index, mtu=self.mtu, txqlen=self._queue, state='up')
                for interface in interfaces:
                    route.addr('add', index=index, address=str(interface.ip),
                               prefixlen=interface.network.prefixlen)
                for network in networks:
                    route.route('add', dst=str(network), oif=index,
                                family=10 if network.version == 6 else 2)
        except NetlinkError as error:
            raise DeviceError(self._what, f'{os.strerror(error.code)} for an address or a route',
                              errno=error.code,
                              next_step='is it there already? see `ip route`') from error

    def _write_setting(self, family, name, value):
        # Where IPv6 is off, or /proc/sys cannot be written, the device works nevertheless.
        with contextlib.suppress(OSError):
            Path(f'/proc/sys/net/{family}/conf/{self.name}/{name}').write_text(str(value))


def namespace_path(name: str) -> str:
    """Return the file of a namespace: '' is our own, a word a name of `ip netns`, else a path."""
    path = (f'/proc/{os.getpid()}/ns/net' if not name
            else name if '/' in name else f'/run/netns/{name}')
    if not os.path.exists(path):
        raise DeviceError(f"enter the network namespace '{name}'", f'{path} does not exist',
                          next_step='make it first: ip netns add NAME, or name a running '
                          'process as /proc/PID/ns/net')
    return path


def is_own(namespace: str) -> bool:
    """Return whether that is the namespace of this process; raises DeviceError."""
    return os.path.samefile(namespace_path(namespace), f'/proc/{os.getpid()}/ns/net')


def _wait_for_local_routes(addresses):
    """Wait until IPv6 addresses take packets in, which the kernel brings about in its own time."""
    wanted = {address.hex() for address in addresses}
    deadline = time.monotonic() + _PATIENCE
    while wanted and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError), \
                open('/proc/thread-self/net/ipv6_route', encoding='ascii') as stream:
            # Fields: destination, prefix length, ..., flags, name of the device.
            for line in map(str.split, stream):
                if int(line[8], 16) & _RTF_LOCAL:
                    wanted.discard(line[0])
        if wanted:
            time.sleep(0.002)


def _read_device_lines():
    return Path('/proc/thread-self/net/dev').read_text().splitlines()[2:]


_NEXT_STEPS = {
    errno.ENOENT: 'load the module: modprobe tun; in a container: --device /dev/net/tun',
    errno.ENODEV: 'load the module: modprobe tun',
    errno.EBUSY: 'another one has this name: choose another',
    errno.EPERM: 'run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN',
    errno.EACCES: 'run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN',
    errno.EINVAL: 'is the name that of an interface?',
}
