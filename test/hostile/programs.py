"""
The programs that PROG_TEST_RUN takes, on mutated packets: verdicts, counters, what is written.

`CASES` are functions that take how many packets, and return what was counted. The programs of
TCP connections (sock_ops, sk_msg, sk_skb) and the probes have no PROG_TEST_RUN; random_streams.py
is for those.
"""

from contextlib import contextmanager
from pathlib import Path
import random
import sys
from types import SimpleNamespace

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent / 'xdp')]

from capture_model import run as run_capture  # noqa: E402
from capture_model import run_where_whole  # noqa: E402
from fast_path_lab import grown  # noqa: E402
from filter_tools import rig  # noqa: E402
from ipc_bypass.kernel import syscall  # noqa: E402
from ipc_bypass.xdp.fast_path.path import FastPath, FastPathSettings  # noqa: E402
from ipc_bypass.xdp.kinds import DEFAULT_ORDER, slot_program  # noqa: E402
from ipc_bypass.xdp.limiter import RateLimiter  # noqa: E402
from ipc_bypass.xdp.limits import parse_limit  # noqa: E402
from ipc_bypass.xdp.root import RootArray, RootSettings  # noqa: E402
from ipc_bypass.xdp.sampler import Sampler  # noqa: E402
from ipc_bypass.xdp.sampler_settings import parse_rule, SamplerSettings  # noqa: E402
from ipc_bypass.xdp.steering import Steering, SteeringSettings  # noqa: E402
from ipc_bypass.xdp.templates import Templates  # noqa: E402
from support.xdp import ABORTED, DROP, PASS, REDIRECT, TX  # noqa: E402
from test_xdp_chain_fuzz import random_frames, Workers  # noqa: E402
from test_xdp_fast_path_frames import Program, UNSPEC  # noqa: E402
from test_xdp_fast_path_frames import REDIRECT as HANDED_OVER  # noqa: E402

#: Packets between two looks at counters and samples.
_BATCH = 1000
#: Frames after which the fast path's tables are written anew.
_AGAIN = 50
_SHIFTS = {'af_xdp': (), 'sampler': (), 'rate_limiter': (DROP,), 'devmap': (REDIRECT,),
           'bypass': (TX, REDIRECT)}
_templates = Templates()


@contextmanager
def _alone(kind):
    """Yield (array, maps of the slot): a root array with this slot only, attached to nothing."""
    interface = SimpleNamespace(index=1, mtu=1500)
    with RootArray(interface, RootSettings(pin_directory=''), templates=_templates) as array:
        yield array, array.load(DEFAULT_ORDER.index(kind), slot_program(kind)).maps


def _sampler(maps):
    sampler = Sampler(maps)
    sampler.apply(SamplerSettings(every=9, snap=64, rules=(
        parse_rule('udp:7400-7402 from 10.124.0.0/16 every 3'), parse_rule('tcp'))))
    state = {'samples': 0}

    def settle(seen):
        state['samples'] += len(sampler.read())
        status = sampler.status()
        reader = status.readers['node']
        assert status.seen == seen and status.selected == sum(status.by_rule)
        assert (reader.written, sampler.resynchronised) == (state['samples'], 0)
        assert reader.written + reader.full + reader.unread == status.selected
        return {'sampled': status.selected}
    return settle, sampler.close


def _limiter(maps):
    limiter = RateLimiter(maps)
    limiter.apply([parse_limit(text) for text in (
        '10.124.0.0/16 each /32 packets 2000 burst 100 ports 7404-7405',
        'fd00:124::/64 each /128 packets 20000 burst 5000', '0.0.0.0/0 packets 1000000 dry_run')])

    def settle(seen):
        status = limiter.status()
        totals = {name: count for name, count in status.totals.items() if 'bytes' not in name}
        assert status.seen == sum(totals.values()) == seen, totals
        return totals
    return settle, lambda: None


def _counted(worker):
    def settle(seen):
        counters = worker.counters()
        counters.pop('bytes', None)
        assert sum(counters.values()) == seen, counters
        return counters
    return settle, getattr(worker, 'close', lambda: None)


def _steering(maps):
    steering = Steering(maps)
    steering.apply(SteeringSettings((7400, 7403), (7400,), neighbours=True, echo=True))
    return _counted(steering)


_WORKERS = {'sampler': _sampler, 'rate_limiter': _limiter, 'af_xdp': _steering,
            'devmap': lambda maps: _counted(Workers._devmap(maps)),
            'bypass': lambda maps: _counted(Workers._bypass(maps))}


def slot(kind, count):
    """Run frames through a slot: only its own verdicts, and what passes is as it was."""
    chance = random.Random(f'{kind} alone')
    verdicts = dict.fromkeys((ABORTED, DROP, PASS, TX, REDIRECT), 0)
    with _alone(kind) as (array, maps):
        settle, close = _WORKERS[kind](maps)
        try:
            told = settle(0)
            for number, frame in enumerate(random_frames(chance, count), 1):
                answer, left = syscall.prog_test_run(array.root_program, frame)
                verdicts[answer] += 1
                assert answer == PASS or answer in _SHIFTS[kind], (answer, frame.hex())
                assert answer != PASS or left == frame, frame.hex()
                if not number % _BATCH:
                    told = settle(number)
            told = settle(count)
            counters = array.counters()
            index = DEFAULT_ORDER.index(kind)
            assert sum(counters['root'].values()) == counters['root']['pass'] == count
            assert counters[index]['pass'] == verdicts[PASS]
            assert sum(counters[index].values()) == count
            assert not any(sum(counters[other].values()) for other in range(8) if other != index)
        finally:
            close()
    return told


def filter_slot(count):
    """Hold the filter against its model, frame by frame, with rules that are changed."""
    chance = random.Random('filter alone')
    rules = ('deny udp dport 53', 'deny from fd00:125::/64', 'deny tcp 7400', 'allow udp 7401',
             'deny udp 7402 not-rtps', 'deny to 10.124.0.9', 'allow domain 0', 'deny icmp')
    outcomes: dict[str, int] = {}
    with rig() as found:
        left = count
        while left:
            several = min(left, 20_000)
            found.apply(*chance.sample(rules, 4), malformed_drop=bool(chance.getrandbits(1)),
                        frags_drop=bool(chance.getrandbits(1)),
                        default_action=chance.choice(('allow', 'deny')))
            counted = found.agree(list(random_frames(chance, several)))
            for name, packets in counted.items():
                if isinstance(name, str):
                    outcomes[name] = outcomes.get(name, 0) + packets
            left -= several
    assert sum(outcomes.values()) == count
    return outcomes


def fast_path(count):
    """Run frames through the tc program: one reason each, and no frame is changed."""
    chance = random.Random('fast path alone')
    with FastPath(FastPathSettings(udp_ports=('7400-7410',), tcp_ports=('5000',))) as path:
        path.load()
        program, before = Program(path), path.counters()
        handed = 0
        left_to_run = count
        for frame in random_frames(chance, 2 * count):
            ran = run_where_whole(program.fd, frame)
            if ran is None:
                continue
            answer, left = ran
            assert answer in (UNSPEC, HANDED_OVER) and left == frame
            handed += answer == HANDED_OVER
            left_to_run -= 1
            if not left_to_run:
                break
            if not left_to_run % _AGAIN:
                program.write({})  # a forged source ended an entry
                program.write(program.known)
        told = {name: number for name, number in grown(path, before).items()
                if name not in ('bytes', 'moves')}
        assert sum(told.values()) == count and told.get('packets', 0) == handed
        assert handed
    return told


def root(count):
    """Run frames through the root without a slot: all pass, as they were."""
    chance = random.Random('root alone')
    interface = SimpleNamespace(index=1, mtu=1500)
    with RootArray(interface, RootSettings(pin_directory=''), templates=_templates) as array:
        for frame in random_frames(chance, count):
            answer, left = syscall.prog_test_run(array.root_program, frame)
            assert answer == PASS and left == frame
        counters = array.counters()
        assert counters['root'] == {**dict.fromkeys(counters['root'], 0), 'pass': count}
    return counters['root']


def capture(count):
    """Run packets through cgroup_skb's program, and look at every slot that it wrote."""
    return run_capture(random.Random('capture alone'), count)


CASES = {'xdp_root': root, 'xdp_filter': filter_slot, 'tc_fast_path': fast_path,
         'skb_capture': capture,
         **{f'xdp_{kind}': (lambda count, kind=kind: slot(kind, count)) for kind in _WORKERS}}


def main():
    """Run cases: `programs.py COUNT NAME...`; prints what each counted."""
    import time
    for name in sys.argv[2:] or CASES:
        begun = time.monotonic()
        told = CASES[name](int(sys.argv[1]))
        print(f'{name}: {sys.argv[1]} packets in {time.monotonic() - begun:.0f} s, '
              f'{ {key: value for key, value in told.items() if value} }', flush=True)


if __name__ == '__main__':
    main()
