"""The paths of the node, of TCP and of UDP, as one."""

import contextlib

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.tcp.path import TcpPath
from ipc_bypass.udp.path import UdpPath
from ipc_bypass.udp.traced import Traced

INACTIVE_REASON = 'the node is not active'
#: What each transport's fast paths are called, the best one first.
FAST = {'tcp': ('sk_msg',), 'udp': ('cgroup_skb', 'trace')}


class Paths:
    """
    Both paths; a step that fails in one is undone in the other.

    `tcp` and `udp` are the TcpPath and the UdpPath.
    """

    def __init__(self, tcp_settings, udp_settings, logger):
        """Remember the settings; nothing is touched before `configure`."""
        self.tcp = TcpPath(tcp_settings, logger)
        self.udp = UdpPath(udp_settings, logger, trace=self._traced)

    def configure(self):
        """Make both; raises BypassError and leaves nothing."""
        if self.tcp.settings.tcp_capture:
            self._configure_joined()
        else:
            self._configure_apart()

    def _configure_apart(self):
        self.tcp.configure()
        try:
            self.udp.configure()
        except BaseException:
            self.tcp.cleanup()
            raise
        if self.udp.selected == 'trace' and 'tcp' in self._traced_transports():
            self.tcp.notes.append('its sends are traced into the pool, by their first bytes')

    def _configure_joined(self):
        """Make the pool first, and build the TCP path's program so that it can write to it."""
        self.udp.configure()
        try:
            pool = self.udp.pinned_pool()
            if pool is None:
                # Without a pool of cgroup_skb: as if nothing had been asked for.
                self.udp.cleanup()
                self._configure_apart()
            else:
                with pool as self.tcp.pool:
                    self.tcp.configure()
        except BaseException:
            self.udp.cleanup()
            raise
        if pool is None or self.tcp.selected != 'sk_msg':
            self.tcp.notes.append('tcp_capture has no effect: it needs sk_msg and cgroup_skb')
        self.udp.follow_fallback(self.tcp.set_capture_ring)

    def activate(self):
        """Attach both; raises BypassError with neither attached."""
        try:
            self.tcp.activate()
            self.udp.activate()
        except BaseException:
            with contextlib.suppress(BypassError):
                self.deactivate()
            raise

    def deactivate(self):
        """Let everything go the usual way at once."""
        try:
            self.tcp.deactivate()
        finally:
            self.udp.deactivate()

    def cleanup(self):
        """Release both; return what open connections still hold, as TcpPath.cleanup does."""
        try:
            return self.tcp.cleanup()
        finally:
            self.udp.cleanup()

    def set_rules(self, rules):
        """Tell both what the rules are."""
        self.tcp.set_rules(rules)
        self.udp.set_rules(rules)

    def _traced(self, settings, logger):
        return Traced(settings, logger, transports=self._traced_transports())

    def _traced_transports(self):
        """Return what the trace path looks at: TCP too where it is left on loopback."""
        stays = self.tcp.selected == 'loopback' and self.tcp.settings.tcp_path != 'loopback'
        return ('udp', 'tcp') if stays else ('udp',)

    def by_transport(self):
        """Return {transport: path}."""
        return {'tcp': self.tcp, 'udp': self.udp}

    def unsupported(self, rule):
        """Return why no path of this host serves a rule, '' where one does."""
        path = self.by_transport()[rule.transport]
        if path.selected == 'loopback':
            refused = [path.reasons[name] for name in FAST[rule.transport]
                       if path.reasons.get(name)]
            return next(iter(refused), '')
        return path.obstacle(rule) if rule.transport == 'udp' else ''

    def obstacle(self, rule, active):
        """Return why a rule has no effect now, '' where it has."""
        reason = self.unsupported(rule)
        if reason or not active:
            return reason or INACTIVE_REASON
        return self.udp.waits_for(rule) if rule.transport == 'udp' else ''

    def __str__(self):
        """Return which ways are taken."""
        return f'tcp by {self.tcp.selected}, udp by {self.udp.selected}'
