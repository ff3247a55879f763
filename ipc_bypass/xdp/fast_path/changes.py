"""What a netlink message means for the containers that are known: who is not sure any more."""

from __future__ import annotations

from dataclasses import dataclass, field

from ipc_bypass.xdp.fast_path import rtnetlink
from ipc_bypass.xdp.fast_path.containers import conflicts, Picture


@dataclass
class Doubt:
    """
    What came of messages.

    `ports` are to go out of use at once, by ifindex; `everything` where messages were lost;
    `look` says that it is time to look anew.
    """

    ports: set[int] = field(default_factory=set)
    everything: bool = False
    look: bool = False


class Changes:
    """
    Holds messages against the last picture, so that one without news puts nothing out of use.

    :param picture: what was read last
    :param every_link: take every message about a known link for news, as where it also matters
        what messages do not tell (offloads)
    """

    def __init__(self, picture: Picture, *, every_link: bool = False) -> None:
        self._picture, self._every_link = picture, every_link
        self._of_place: dict[tuple[int, int], set[int]] = {}
        for port in picture.ports.values():
            link = picture.links[-1, port.index]
            places = [(-1, port.index), (-1, port.bridge)]
            if link.peer_namespace >= 0:
                places.append((link.peer_namespace, link.peer))
            for place in places:
                self._of_place.setdefault(place, set()).add(port.index)
        self._bridges = {port.bridge for port in picture.ports.values()}

    def take(self, message: tuple[int, bytes, int] | None, doubt: Doubt) -> None:
        """Add what one of the messages that Listening.take yields says."""
        if message is None:
            doubt.everything = doubt.look = True
            return
        kind, body, namespace = message
        if kind in (rtnetlink.NEW_LINK, rtnetlink.DEL_LINK):
            self._link(kind, body, namespace, doubt)
        elif kind in (rtnetlink.NEW_ADDRESS, rtnetlink.DEL_ADDRESS):
            self._address(kind, body, namespace, doubt)
        elif kind == rtnetlink.NEW_NEIGHBOUR:
            self._forwarding(body, doubt)
        elif namespace < 0 and kind >= rtnetlink.NEW_QDISC:
            self._traffic_control(body, doubt)

    def _link(self, kind: int, body: bytes, namespace: int, doubt: Doubt) -> None:
        family, index = rtnetlink.family_and_index(body)
        place, known = (namespace, index), self._picture.links.get((namespace, index))
        if family == rtnetlink.AF_BRIDGE and kind == rtnetlink.NEW_LINK:
            said = rtnetlink.port_of(body)
            same = known is not None and said in (
                None, (known.state, known.isolated, known.locked))
        else:
            same = not self._every_link and kind == rtnetlink.NEW_LINK \
                and rtnetlink.parse_link(body) == known
        if same:
            return
        doubt.ports |= self._of_place.get(place, set())
        # A new one at a neighbour's is none of ours before a port of ours leads there.
        doubt.look |= namespace < 0 or place in self._of_place

    def _address(self, kind: int, body: bytes, namespace: int, doubt: Doubt) -> None:
        index, address, usable = rtnetlink.parse_address(body)
        place = namespace, index
        if namespace < 0 or place not in self._of_place:
            return
        known = address in self._picture.addresses.get(place, ())
        stays = kind == rtnetlink.NEW_ADDRESS and usable
        if known == stays:
            return
        doubt.look = True
        if known:
            doubt.ports |= self._of_place[place]

    def _forwarding(self, body: bytes, doubt: Doubt) -> None:
        entry = rtnetlink.parse_neighbour(body)
        if entry is None or entry.bridge not in self._bridges:
            return
        for port in self._picture.ports.values():
            if conflicts(port, entry):
                doubt.ports.add(port.index)
                doubt.look = True
            elif port.container is None and port.index == entry.port:
                doubt.look = True  # it may be sure again

    def _traffic_control(self, body: bytes, doubt: Doubt) -> None:
        index = rtnetlink.index_of_control(body)
        if index in self._picture.ports:
            doubt.ports.add(index)
            doubt.look = True
