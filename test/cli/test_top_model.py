"""`ipc-bypass top` without a terminal: rates, delays, order, keys and lines."""

from hypothesis import given, settings
from hypothesis import strategies as st
from ipc_bypass.cli.top_columns import (
    amount,
    columns_of,
    fitted,
    FLOW_COLUMNS,
    number,
    PROCESS_COLUMNS,
    table,
)
from ipc_bypass.cli.top_delays import bars, bucket, BUCKETS, Delays, duration, spark, upper
from ipc_bypass.cli.top_keys import press
from ipc_bypass.cli.top_model import Model
from ipc_bypass.cli.top_source import Look, TOTALS
from ipc_bypass.cli.top_view import HELP, rows_of, screen, SELECTED, State
from ipc_bypass_interfaces.msg import Counter, Flow
import pytest

LOOK = Look(node='/ipc_bypass', state_label='active', totals=dict.fromkeys(TOTALS, 0),
            paths={'tcp': 'sk_msg', 'udp': 'cgroup_skb'}, helpers=('xdp on 2 interfaces',))
NAMES = ['up', 'down', 'page up', 'page down', 'home', 'end', 'enter', 'escape', 'backspace',
         *'s<>r/tpew?hjk0123xyz ä']


def flow(number_, sent=0, queued=0, sender='talker', receiver='listener', reason='', age=100.0,
         redirected=None, **members):
    return Flow(flow_id=number_, local_address='127.0.0.1', remote_address='::1',
                local_port=40_000, remote_port=7400, local_comm=sender, local_pid=number_,
                remote_comm=receiver, remote_pid=77, bytes=sent, messages=sent // 100,
                redirected_bytes=sent if redirected is None else redirected,
                queued_bytes=queued, path='loopback' if reason else 'sk_msg', reason=reason,
                rule_id=3, age=age, **members)


def model(*looks):
    """Return a Model that took lists of flows, a second apart."""
    made = Model(lambda one: min(one.local_port, one.remote_port))
    for stamp, flows in enumerate(looks, 1):
        made.take(flows, float(stamp))
    return made


class Actions:
    """Notes what is asked for."""

    def __init__(self):
        """Nothing yet."""
        self.asked = []

    def enroll(self, port):
        self.asked.append(('enroll', port))

    def withdraw(self, rule_id):
        self.asked.append(('withdraw', rule_id))


def type_in(state, made, *keys, actions=None):
    """Press keys, a text one by one; return the Actions."""
    actions = actions or Actions()
    for key in keys:
        for one in ([key] if key in NAMES else key):
            assert press(one, state, made, 10, actions)
    return actions


def test_rates_and_delays():
    made = model([flow(1, 1000)], [flow(1, 3000, queued=500), flow(2, 400, age=0.5),
                                   flow(3, 10 ** 9)])
    first, second, third = made.flows
    assert (first.rate, first.messages, first.delay) == (2000, 20, 0.25)
    assert (second.rate, third.rate) == (400, 0)  # the third is old, and was not named before
    assert third.delay is None and first.delays.samples == 1
    made.take([flow(1, 3000, queued=500)], 3.0)
    assert made.flows[0].delay is None and made.flows[0].delays.samples == 1
    made.take([flow(1, 5000)], 3.0)  # the same moment again: nothing new
    assert made.flows[0].bytes == 3000
    made.take([flow(1, 10)], 1.0)  # another clock, or node
    assert (made.flows[0].rate, len(made.flows)) == (0, 1)
    made.take([], 2.0)
    assert made.flows == [] and made.processes == []


def test_node_that_begins_again():
    """What is old when a node comes back has no rate yet, and no delay that it never had."""
    made = model([flow(1, 1000)], [flow(1, 3000)])
    made.clear()
    assert made.flows == []
    made.take([flow(1, 500, queued=10 ** 6)], 1.8e9)
    assert (made.flows[0].rate, made.flows[0].delay, made.flows[0].delays.samples) == (0, None, 0)
    made.take([flow(1, 700, queued=50)], 1.8e9 + 1)
    assert (made.flows[0].rate, made.flows[0].delay) == (200, 0.25)


def test_processes():
    made = model([flow(1, 0), flow(2, 0, reason='budget', redirected=0)],
                 [flow(1, 1000, queued=100), flow(2, 3000, reason='budget', redirected=0)])
    rows = {row.pid: row for row in made.processes}
    assert set(rows) == {1, 2, 77}
    listener = rows[77]
    assert (listener.in_rate, listener.out_rate, listener.flows) == (4000, 0, 2)
    assert (listener.fast, listener.way, listener.queued) == (0.25, 'sk_msg budget', 100)
    assert (listener.delay, listener.delays.samples) == (0.1, 1)
    assert rows[2].reason_now == 'budget' and not rows[1].reason_now and not listener.reason_now


@settings(max_examples=50, deadline=None)
@given(st.lists(st.dictionaries(st.integers(1, 5), st.tuples(
    st.integers(0, 2 ** 64 - 1), st.integers(0, 2 ** 64 - 1), st.text(max_size=15)),
    max_size=5), max_size=6), st.integers(1, 200), st.integers(1, 50), st.booleans(),
    st.lists(st.sampled_from(NAMES), max_size=25))
def test_any_flows_keys_and_sizes(looks, width, height, unicode, keys):
    """Whatever comes, every screen fits, and is of what a terminal shows as it is."""
    made, state, actions = Model(lambda one: 7400), State(), Actions()
    for stamp, look in enumerate(looks):
        made.take([flow(number_, sent, queued, sender=name, receiver=name[::-1],
                        passed_by_reason=[Counter(name='budget', value=sent)])
                   for number_, (sent, queued, name) in look.items()], float(stamp))
    for key in keys:
        assert press(key, state, made, height, actions)
        lines = screen(LOOK, made, state, width, height, unicode=unicode)
        assert len(lines) <= max(height, 1)
        for text, _style in lines:
            assert text.isprintable() and columns_of(text) <= width
            assert unicode or text.isascii()


@pytest.mark.parametrize('columns', [FLOW_COLUMNS, PROCESS_COLUMNS], ids=['flows', 'processes'])
@pytest.mark.parametrize('width', [80, 100, 120, 200])
def test_columns(columns, width):
    """In 80 columns every title and number is whole; names have what a wide terminal adds."""
    made = model([flow(1, 10 ** 12, queued=10 ** 9, sender='a' * 15)],
                 [flow(1, 999 * 10 ** 12, queued=10 ** 9, sender='a' * 15)])
    rows = made.processes if columns is PROCESS_COLUMNS else made.flows
    for name in columns:
        if columns[name].from_width <= width:
            header, line, *_ = table(columns, rows, width, marked=name)
            assert columns_of(header) <= width and columns_of(line) <= width
            assert f'{columns[name].title}▼' in header, name
            assert '…' not in header
    if width == 200:
        assert 'a' * 15 in line


def test_order_and_filter():
    made = model([flow(1), flow(2), flow(3)],
                 [flow(1, 100), flow(2, 300, sender='camera'),
                  flow(3, 200, reason='budget', redirected=0)])
    state = State()

    def shown():
        return [row.key for row in rows_of(made, state)]
    assert shown() == [2, 3, 1]
    state.ascending = True
    assert shown() == [1, 3, 2]
    state.ascending, state.filter = False, 'CAMERA'
    assert shown() == [2]
    state.filter = ':7400'
    assert shown() == [2, 3, 1]
    state.filter, state.paths = '', 'passed'
    assert shown() == [3]
    state.processes = True
    assert set(shown()) == {3, 77}
    state.sort = 'port'  # a column that processes have not
    assert state.sorted_by == 'rate'


def test_keys():
    made = model([flow(1), flow(2)], [flow(1, 100), flow(2, 300)])
    state = State()
    type_in(state, made, 'down')
    assert state.chosen == 1
    type_in(state, made, 'home')
    assert state.chosen == 2
    type_in(state, made, 's')
    assert state.sort == 'messages'
    type_in(state, made, '<', '<', 'r')
    assert (state.sort, state.ascending) == ('port', True)
    type_in(state, made, '/', 'tal', 'backspace', 'enter')
    assert state.filter == 'ta'
    type_in(state, made, '/', 'escape')
    assert state.filter == ''
    type_in(state, made, 't')
    assert state.paths == 'redirected'
    asked = type_in(state, made, 'e', 'enter').asked
    assert asked == [('enroll', 7400)]
    asked = type_in(state, made, 'e', *4 * ['backspace'], '8080', 'enter').asked
    assert asked == [('enroll', 8080)]
    assert type_in(state, made, 'e', '9' * 9, 'enter').asked == [] and 'no port' in state.note
    assert type_in(state, made, 'w').asked == [('withdraw', 3)]
    type_in(state, made, 'p')
    assert type_in(state, made, 'w').asked == [] and 'choose a flow' in state.note
    assert not press('q', state, made, 10, Actions())
    type_in(state, made, '/', 'q')  # is text there
    assert state.typed == 'q'


def test_chosen_row_stays_in_view():
    flows = [flow(number_, number_) for number_ in range(1, 101)]
    made, state = model(flows), State(sort='bytes')
    type_in(state, made, *30 * ['down'])
    lines = screen(LOOK, made, state, 80, 24)
    assert len(lines) == 24
    selected, = [text for text, style in lines if style == SELECTED]
    assert 'talker(70)' in selected
    type_in(state, made, 'end')
    assert 'talker(1)' in next(text for text, style in screen(LOOK, made, state, 80, 24)
                               if style == SELECTED)
    state.help = True
    text = '\n'.join(line for line, _ in screen(LOOK, made, state, 80, 24))
    assert all(words in text for _, words in HELP)


def test_details():
    made = model([flow(1)], [flow(1, 1000, queued=500, budget_left=7, passed_by_reason=[
        Counter(name='queues_not_empty', value=12)])])
    for processes in (False, True):
        state = State(details=True, processes=processes, chosen=77 if processes else 1)
        text = '\n'.join(line for line, _ in screen(LOOK, made, state, 80, 24))
        assert 'queue delay, from queued bytes and rate, 1 samples:' in text
        assert '< 524ms █' in text
    assert 'queues_not_empty 12' in '\n'.join(
        line for line, _ in screen(LOOK, made, State(details=True), 80, 24))


@given(st.floats(0, 1e12))
def test_buckets(delay):
    index = bucket(delay)
    assert 0 <= index < BUCKETS
    if 0 < index < BUCKETS - 1:
        assert index == 1 or upper(index - 1) <= delay * (1 + 1e-9)
        assert delay <= upper(index)
    assert len(duration(delay)) <= 6 or delay > 99_999


def test_histogram():
    delays = Delays()
    for delay in (0, 0, 3e-6, 3e-6, 3e-6, 3e-6, 100e-6):
        delays.add(delay)
    lines = bars(delays, 8)
    assert lines[0] == '    empty ████ 2' and lines[2].endswith('████████ 4')
    assert spark(delays)[:3] == '▄ █' and len(spark(delays)) == 8
    assert delays.as_dict() == {'0': 2, '4': 4, '128': 1}
    assert (delays.quantile(0.5), delays.quantile(1)) == (4e-6, 128e-6)
    assert Delays().quantile(0.5) is None and bars(Delays(), 8) == []


@given(st.text(max_size=40), st.integers(1, 30), st.booleans(), st.booleans())
def test_fitted(text, width, right, unicode):
    shown = fitted(text, width, right=right, unicode=unicode)
    assert columns_of(shown) == width and shown.isprintable()
    assert unicode or shown.isascii()


@pytest.mark.parametrize(('value', 'text'), [
    (0, '0B'), (999, '999B'), (1000, '1.0K'), (1024 * 99, '99.0K'), (1024 ** 2 * 500, '500M'),
    (2 ** 64, '16.0E')])
def test_amounts(value, text):
    assert amount(value) == text
    assert len(number(min(value, 10 ** 14))) <= 5


def test_names_of_others_are_harmless():
    """A process that calls itself an escape sequence is shown as what it is."""
    made = model([flow(1, sender='\x1b[2J\x07evil', receiver='日本語の名前です')])
    text = '\n'.join(line for line, _ in screen(LOOK, made, State(), 80, 24))
    assert '\x1b' not in text and '?[2J?evil' in text
