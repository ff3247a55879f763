"""Whether an interface is fit for XDP: looked at before anything is attached."""

from __future__ import annotations

from dataclasses import dataclass
import errno
import mmap

from ipc_bypass.xdp.errors import SanityError
from ipc_bypass.xdp.ethtool import Channels, Ethtool
from ipc_bypass.xdp.features import xdp_features, XdpFeature
from ipc_bypass.xdp.interfaces import find_index, Interface
from ipc_bypass.xdp.occupant import DISPATCHER, occupant
from ipc_bypass.xdp.peer import inside, peer, peer_namespace

#: Levels of findings, the gravest first.
REFUSAL, WARNING, NOTE = 'refusal', 'warning', 'note'
# Kinds whose drivers never had native XDP, for kernels that do not tell (before 6.3).
_WITHOUT_NATIVE = {'loopback', 'bridge', 'dummy', 'ifb', 'vlan', 'macvlan', 'macvtap', 'ipvlan',
                   'vxlan', 'gre', 'ipip', 'sit', 'wireguard', 'geneve', 'vrf', 'team'}
# drivers/net/veth.c: what a frame takes of a page besides the packet: headroom, the shared info
# of an skb with its alignment (on 64-bit machines), the Ethernet header.
_PAGE_OVERHEAD = 256 + 320 + 14
#: Largest MTU of a veth's peer that native XDP without frags takes, in bytes (seen: 3506).
PEER_MTU_LIMIT = mmap.PAGESIZE - _PAGE_OVERHEAD


@dataclass(frozen=True)
class Finding:
    """One thing that was found: its level, a word for it, the reason, and the next step."""

    level: str
    word: str
    reason: str
    next_step: str = ''

    def __str__(self) -> str:
        """Return it as one line."""
        return f'{self.reason}; {self.next_step}' if self.next_step else self.reason


def check(interface: Interface, mode: str = 'auto', *, frags: bool = False) -> tuple[Finding, ...]:
    """
    Return what speaks against XDP on an interface, or is to be known, the gravest first.

    :param mode: 'auto', 'native', 'generic' or 'offload'
    :param frags: whether the program is loaded with BPF_F_XDP_HAS_FRAGS
    :raises SanityError: when it is refused, with the first reason; `findings` has all
    :raises InterfaceError: when the interface is gone
    """
    now = find_index(interface.index)
    features = xdp_features(now.index)
    found = [*_hook(now), *_mode(now, mode, features), *_frames(now, mode, frags, features),
             *_surroundings(now)]
    if now.kind == 'veth':
        found += _peer(now, mode, features)
    order = (REFUSAL, WARNING, NOTE)
    found.sort(key=lambda finding: order.index(finding.level))
    refusals = [finding for finding in found if finding.level == REFUSAL]
    if refusals:
        raise SanityError(f'use XDP on {now.name} in {mode} mode',
                          '; '.join(finding.reason for finding in refusals),
                          findings=tuple(found), errno=errno.EOPNOTSUPP,
                          next_step=refusals[0].next_step)
    return tuple(found)


def _hook(interface: Interface) -> list[Finding]:
    """Look who is there already."""
    taken = occupant(interface) if interface.xdp_program_id else None
    if taken is None:
        return []
    if taken.name == DISPATCHER:
        return [Finding(NOTE, 'dispatcher', f"{taken}: libxdp's dispatcher, of which ours becomes "
                        'one of the programs')]
    return [Finding(REFUSAL, 'occupied', f'{taken}, and is not replaced',
                    taken.next_step(interface))]


def _mode(interface: Interface, mode: str, features: XdpFeature | None) -> list[Finding]:
    """Look whether the driver has the mode."""
    driver = interface.driver or interface.kind
    if mode == 'offload':
        if features is not None and XdpFeature.HW_OFFLOAD not in features:
            return [Finding(REFUSAL, 'offload', f"the driver '{driver}' runs no XDP in hardware",
                            'use mode auto')]
        return []
    if mode == 'generic':
        return []
    # A veth with too few queues tells of no features at all: its queues are looked at below.
    native = interface.kind not in _WITHOUT_NATIVE \
        if features is None or interface.kind == 'veth' else XdpFeature.BASIC in features
    if native:
        return []
    reason = f"the driver '{driver}' has no native XDP"
    if mode == 'native':
        return [Finding(REFUSAL, 'native', reason, 'use mode auto or generic')]
    return [Finding(NOTE, 'native', f'{reason}: generic mode is taken, in which each frame is '
                    'a socket buffer first')]


def _frames(interface: Interface, mode: str, frags: bool, features: XdpFeature | None
            ) -> list[Finding]:
    """Look whether the largest frames fit."""
    if mode in ('generic', 'offload'):
        return []
    takes_frags = frags and (features is None or XdpFeature.RX_SG in features)
    if interface.kind == 'veth':
        other = peer(interface)
        if other is None or other.mtu <= PEER_MTU_LIMIT or takes_frags:
            return []
        # Nothing is said of the interface's own MTU: the peer's frames are those that arrive.
        return [_unless_native(
            mode, 'peer_mtu', f"the MTU of {interface.name}'s peer {other.name} is {other.mtu}, "
            f'above the {PEER_MTU_LIMIT} bytes of native XDP without frags',
            f'ip link set dev {other.name} mtu 1500 (in its namespace), or load with frags')]
    if interface.kind == 'physical' and interface.mtu > PEER_MTU_LIMIT and not takes_frags:
        return [Finding(WARNING, 'mtu', f'an MTU of {interface.mtu} does not fit into a page, as '
                        'most drivers ask for in native mode',
                        f'ip link set dev {interface.name} mtu 1500, or load with frags')]
    return []


def _surroundings(interface: Interface) -> list[Finding]:
    """Look at the interface's own state."""
    found = []
    if not interface.up:
        found.append(Finding(WARNING, 'down', f'{interface.name} is down: no frame arrives',
                             f'ip link set dev {interface.name} up'))
    if interface.master:
        found.append(Finding(NOTE, 'master', f'{interface.name} is a port of interface '
                             f'{interface.master}: XDP sees its frames first'))
    with Ethtool() as ethtool:
        try:
            lro = ethtool.features(interface.name).get('rx-lro')
        except OSError:
            lro = None
    if lro is not None and lro.active:
        found.append(Finding(WARNING, 'lro', f'LRO is on for {interface.name}: drivers refuse '
                             'native XDP with it, or merged frames do not fit',
                             f'ethtool -K {interface.name} lro off'))
    return found


def _peer(interface: Interface, mode: str, features: XdpFeature | None) -> list[Finding]:
    """Look at the other end of a veth."""
    other = peer(interface)
    if other is None:
        return [Finding(NOTE, 'peer', f"{interface.name}'s peer cannot be seen from here")]
    found = []
    if not other.up:
        found.append(Finding(WARNING, 'peer_down', f"{interface.name}'s peer {other.name} is "
                             'down: no frame arrives', f'ip link set dev {other.name} up (in its '
                             'namespace)'))
    if features and XdpFeature.NDO_XMIT not in features:
        found.append(Finding(NOTE, 'peer_napi', f'frames that are redirected to {interface.name} '
                             f'vanish while its peer {other.name} has no NAPI',
                             f'ethtool -K {other.name} gro on (in its namespace), or attach a '
                             'program there'))
    sending, checksums = _peer_settings(interface, other)
    if sending > interface.rx_queues and mode in ('auto', 'native'):
        found.append(_unless_native(
            mode, 'queues', f'{interface.name} has {interface.rx_queues} receive queues, fewer '
            f'than the {sending} that its peer sends by', f'ethtool -L {interface.name} rx '
            f'{sending}'))
    if checksums:
        found.append(Finding(WARNING, 'peer_checksums', f"{interface.name}'s peer {other.name} "
                             'leaves checksums to hardware that is not there: frames that XDP '
                             'takes or sends on have wrong ones',
                             f'ethtool -K {other.name} tx off (in its namespace)'))
    return found


def _peer_settings(interface: Interface, other: Interface) -> tuple[int, bool]:
    """Return (queues that the peer sends by, whether it leaves checksums out); 0 if unknown."""
    def look() -> tuple[Channels, bool]:
        with Ethtool() as ethtool:
            return ethtool.channels(other.name), any(
                feature.active for name, feature in ethtool.features(other.name).items()
                if name.startswith('tx-checksum-'))

    namespace = peer_namespace(interface)
    if namespace is None:
        return 0, False
    try:
        channels, checksums = inside(namespace, look)
    except OSError:
        return 0, False
    return channels.sending, checksums


def _unless_native(mode: str, word: str, reason: str, next_step: str) -> Finding:
    """Return a refusal for mode native, a warning for auto, which takes generic then."""
    if mode == 'native':
        return Finding(REFUSAL, word, reason, next_step)
    return Finding(WARNING, word, f'{reason}: generic mode is taken', next_step)
