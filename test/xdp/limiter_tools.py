"""The rate limiter's program, with a clock that tests set."""

import struct

from ipc_bypass.kernel import syscall
from ipc_bypass.xdp import limiter_layout as layout
from ipc_bypass.xdp.kinds import slot_program
from ipc_bypass.xdp.limiter import RateLimiter
from ipc_bypass.xdp.limits import parse_limit
from support import frames
from support.xdp import DROP, PASS, run_on

START = 5_000_000_000_000
MILLISECOND, SECOND = 1_000_000, 1_000_000_000
# 239.255.0.1, the address of discovery by RTPS 2.5, 9.6.1.4.
GROUP, GROUP_MAC = '239.255.0.1', bytes.fromhex('01005e7f0001')


class Lab:
    """A limiter whose clock stands still until it is set."""

    def __init__(self, templates, **sizes):
        """Load it."""
        template = templates.slot(slot_program('rate_limiter', LIMITER_CLOCK_MAP=1), 3, False)
        self.loaded = template.instantiate(sizes=sizes)
        self.limiter = RateLimiter(self.loaded.maps)
        self.at(0)

    def at(self, nanoseconds):
        """Set the clock."""
        syscall.map_update(self.loaded.maps['limiter_words'].fd,
                           struct.pack('=I', layout.WORD_CLOCK),
                           struct.pack('=Q', START + nanoseconds & (1 << 64) - 1))

    def passes(self, frame):
        """Return whether a packet passes, by the program's answer."""
        answer, _ = run_on(self.loaded.programs['xdp_limiter'], frame)
        assert answer in (PASS, DROP)
        return answer == PASS

    def passed(self, frame, times):
        """Return how many of so many packets pass."""
        return sum(self.passes(frame) for _ in range(times))

    def apply(self, *texts, dry_run=False):
        """Set limits."""
        self.limiter.apply([parse_limit(text) for text in texts], dry_run=dry_run)

    def checked(self, seen):
        """Return the status, whose counters add up to what was seen."""
        status = self.limiter.status()
        assert status.seen == seen
        for name in layout.COUNTS:
            assert sum(limit.counts[name] for limit in status.limits) <= status.totals[name]
        return status

    def __enter__(self):
        """Return itself."""
        return self

    def __exit__(self, *_exception):
        """Let go of it."""
        self.loaded.close()


def packet(source=frames.FAR, *, size=32, group=False, **ports):
    """Return a frame of UDP from a source, to discovery's group where that is asked for."""
    destination = GROUP if group else frames.NEAR
    if ':' in source:
        return frames.ethernet(frames.ip6(frames.udp(bytes(size), addresses=(
            source, frames.NEAR_V6), **ports), source=source), ethertype=0x86dd)
    return frames.ethernet(
        frames.ip4(frames.udp(bytes(size), addresses=(source, destination), **ports),
                   source=source, destination=destination),
        destination=GROUP_MAC if group else frames.NEAR_MAC)
