"""What XDP an interface's driver offers, as the kernel tells by generic netlink (from 6.3)."""

from __future__ import annotations

import enum
import struct

from ipc_bypass.xdp.netlink import attribute, attributes, NetlinkSocket, number_of

_GENERIC = 16  # NETLINK_GENERIC
# uapi/linux/genetlink.h: the controller, which knows the number of each family.
_CONTROLLER, _GET_FAMILY, _FAMILY_NUMBER, _FAMILY_NAME = 16, 3, 1, 2
# uapi/linux/netdev.h
_DEVICE_GET, _DEVICE_INDEX, _DEVICE_FEATURES = 1, 1, 3


class XdpFeature(enum.IntFlag):
    """`enum netdev_xdp_act`: what a driver, as it is set now, can do with XDP."""

    BASIC = 1
    REDIRECT = 2
    NDO_XMIT = 4
    XSK_ZEROCOPY = 8
    HW_OFFLOAD = 16
    RX_SG = 32
    NDO_XMIT_SG = 64


def xdp_features(index: int) -> XdpFeature | None:
    """
    Return what XDP the interface with an index offers, None where the kernel does not tell.

    NDO_XMIT says that frames may be redirected to it now: for a veth, that its peer has NAPI, by
    an XDP program or by GRO. RX_SG says that it takes programs with frags.
    """
    try:
        with NetlinkSocket(_GENERIC) as generic:
            answer, = generic.ask(_CONTROLLER, struct.pack('=BBH', _GET_FAMILY, 1, 0)
                                  + attribute(_FAMILY_NAME, b'netdev\0'))
            family = number_of(attributes(answer, 4).get(_FAMILY_NUMBER))
            answer, = generic.ask(family, struct.pack('=BBH', _DEVICE_GET, 1, 0)
                                  + attribute(_DEVICE_INDEX, index))
    except (OSError, ValueError):
        return None
    told = attributes(answer, 4).get(_DEVICE_FEATURES)
    return None if told is None else XdpFeature(number_of(told))
