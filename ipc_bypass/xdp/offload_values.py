"""The settings that `offloads` changes: how each is read, written and put back; raises OSError."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
import errno
import itertools
import os

from ipc_bypass.xdp.ethtool import Channels, Ethtool, Feature, UDP4, UDP6

# The kernel's names of features (net/ethtool/common.c); of the last there are several.
_FEATURES = {'gro': 'rx-gro', 'lro': 'rx-lro', 'rx_checksum': 'rx-checksum'}
_TX_CHECKSUMS = 'tx-checksum-'

#: (key, value before, value after); values are as JSON has them.
Change = tuple[str, object, object]


class SettingError(OSError):
    """The kernel or the driver refuses a setting; `setting` names it, with a colon."""

    def __init__(self, setting: str, number: int, reason: str = '') -> None:
        super().__init__(number, reason or os.strerror(number))
        self.setting = f'{setting}: '


def current(ethtool: Ethtool, name: str) -> dict[str, object]:
    """Return what the switches of `Offloads.set` are now, and how many queues receive."""
    features = ethtool.features(name)
    found: dict[str, object] = {switch: feature in features and features[feature].active
                                for switch, feature in _FEATURES.items()}
    found['tx_checksum'] = any(feature.active for key, feature in features.items()
                               if key.startswith(_TX_CHECKSUMS))
    try:
        found['rx_queues'] = ethtool.channels(name).receiving
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        found['rx_queues'] = 1
    return found


def feature_changes(ethtool: Ethtool, name: str, switches: Mapping[str, bool]) -> list[Change]:
    """Return the changes that switches ask for; raises SettingError for one that is fixed."""
    features = ethtool.features(name)
    changes: list[Change] = []
    for switch, on in switches.items():
        concerned = [feature for feature in features if feature == _FEATURES.get(switch)
                     or switch == 'tx_checksum' and feature.startswith(_TX_CHECKSUMS)]
        open_ones = [feature for feature in concerned if features[feature].changeable]
        if not open_ones and on != any(features[feature].active for feature in concerned):
            raise SettingError(switch, errno.EOPNOTSUPP)
        changes += [(f'feature:{feature}', features[feature].wanted, on)
                    for feature in open_ones if not _is(features[feature], on)]
    return changes


def queue_changes(ethtool: Ethtool, name: str, wanted: int) -> list[Change]:
    """Return the change that makes so many queues receive, none where they do."""
    now = _channels(ethtool, name)
    if now.receiving == wanted:
        return []
    after = replace(now, combined=wanted - now.rx) if now.max_combined \
        else replace(now, rx=wanted)
    most = now.max_combined or now.max_rx
    if not 1 <= wanted <= most:
        raise SettingError('rx_queues', errno.EINVAL,
                           f'{wanted} receive queues are asked for, the driver takes 1 to {most}')
    return [('channels', _numbers(now), _numbers(after))]


def indirection_changes(ethtool: Ethtool, name: str, wanted: list[int]) -> list[Change]:
    """Return the change that makes hashes of flows choose these queues in turn."""
    try:
        now = ethtool.indirection(name)
    except OSError as error:
        raise SettingError('indirection', error.errno) from error
    if not wanted or not now:
        raise SettingError('indirection', errno.EINVAL if not wanted else errno.EOPNOTSUPP)
    after = [*itertools.islice(itertools.cycle(wanted), len(now))]
    return [] if after == now else [('indirection', now, after)]


def read(ethtool: Ethtool, name: str, key: str, ours: object) -> object:
    """Return a setting's value now; of rules, `ours` where one of them stands, else None."""
    kind, _, detail = key.partition(':')
    if kind == 'feature':
        feature = ethtool.features(name).get(detail)
        return None if feature is None else feature.wanted
    if kind == 'channels':
        return _numbers(_channels(ethtool, name))
    if kind == 'indirection':
        return ethtool.indirection(name)
    return ours if isinstance(ours, list) and _standing(ethtool, name, ours) else None


def write(ethtool: Ethtool, name: str, key: str, value: object) -> object:
    """Write a setting and return its value as it is now; raises SettingError."""
    kind, _, detail = key.partition(':')
    try:
        if kind == 'feature':
            ethtool.set_features(name, {detail: bool(value)})
            if not _is(ethtool.features(name)[detail], bool(value)):
                ethtool.set_features(name, {detail: not value})
                raise OSError(errno.EBUSY, 'the driver keeps it as it is')
        elif kind == 'channels':
            ethtool.set_channels(name, Channels(*value))
        elif kind == 'indirection':
            ethtool.set_indirection(name, value)
        else:
            return _add_rules(ethtool, name, int(detail), value)
    except OSError as error:
        raise SettingError(detail or kind, error.errno, error.strerror) from error
    return value


def put_back(ethtool: Ethtool, name: str, key: str, first: object, ours: object) -> None:
    """Undo a change of ours, which stands; raises OSError."""
    kind, _, detail = key.partition(':')
    if kind == 'feature':
        # Whether it comes into effect may depend on others: what was asked for is put back.
        ethtool.set_features(name, {detail: bool(first)})
    elif kind == 'steer':
        for rule in _standing(ethtool, name, ours):
            ethtool.remove_rule(name, rule)
    else:
        write(ethtool, name, key, first)


def words(value: object) -> str:
    """Return a value for a line of text."""
    if isinstance(value, bool):
        return 'on' if value else 'off'
    if isinstance(value, (list, tuple)):
        return '/'.join(map(str, value[:8])) + ('/...' if len(value) > 8 else '')
    return 'nothing' if value is None else str(value)


def _is(feature: Feature, on: bool) -> bool:
    return feature.wanted == feature.active == on


def _channels(ethtool: Ethtool, name: str) -> Channels:
    try:
        return ethtool.channels(name)
    except OSError as error:
        raise SettingError('rx_queues', error.errno) from error


def _numbers(channels: Channels) -> list[int]:
    return [channels.rx, channels.tx, channels.other, channels.combined]


def _standing(ethtool: Ethtool, name: str, rules: list[str]) -> list[bytes]:
    """Return those of our rules that stand as we made them."""
    ours = [bytes.fromhex(rule) for rule in rules]
    return [rule for rule in ours if ethtool.rule(name, rule) == rule]


def _add_rules(ethtool: Ethtool, name: str, port: int, queue: int) -> list[str]:
    """Steer a UDP port of both IP versions to a queue; return the rules as they stand."""
    rules = [ethtool.add_rule(name, UDP4, port, queue)]
    try:
        rules.append(ethtool.add_rule(name, UDP6, port, queue))
    except OSError as error:
        # Many drivers have such rules for IPv4 only.
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            ethtool.remove_rule(name, rules[0])
            raise
    return [rule.hex() for rule in rules]
