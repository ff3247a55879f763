"""Services, ~/status, parameters and metrics of the node sockmap_helper, in one process of it."""

from contextlib import ExitStack
import urllib.error
import urllib.request

from lifecycle_msgs.msg import State
import pytest
from sockmap_tools import CONFIG, echo, ended, refused, SockmapProcess, turned_away
from support.ports import PortBlock
from support.streams import connect, echoing, listening, settle
from support.waiting import PATIENCE
import yaml

PATHS = ('shortcut', 'sk_skb', 'splice')


@pytest.fixture(scope='module')
def block():
    """Yield the PortBlock of this file: the first for the node's forward, the second metrics."""
    made = PortBlock()
    yield made
    made.close()


@pytest.fixture
def port(block):
    """Return a port that no other test of this file uses."""
    return next(block)


@pytest.fixture(scope='module')
def backend():
    """Yield the port of a backend that echoes."""
    with echoing() as port:
        yield port


@pytest.fixture(scope='module')
def node(privileged, client, backend, block, tmp_path_factory):
    """Return the node, active, with one forward of its parameters, and metrics."""
    with SockmapProcess(client, tmp_path_factory.mktemp('node'), status_period_s=0.1,
                        forwards=[f'127.0.0.1:{next(block)} -> 127.0.0.1:{backend}'],
                        prometheus_port=next(block)) as made:
        for name, request in (('add_forward', {'listen': ':1', 'backend': '127.0.0.1:1'}),
                              ('remove_forward', {'forward_id': 1}), ('list_forwards', {})):
            assert made.code(name, **request) == 'NOT_CONFIGURED'
        made.bring_up()
        yield made
        assert made.end() == 0, made.output()
        assert made.errors() == []


@pytest.fixture
def add(node):
    """Return a function that adds a forward and returns its id; all are removed at the end."""
    added = []

    def make(listen, backend, **options):
        answer = node.ask('add_forward', listen=listen, backend=backend, **options)
        assert (answer.error_code, answer.error_msg) == (0, '')
        added.append(answer.forward_id)
        return answer.forward_id
    yield make
    for number in added:
        node.ask('remove_forward', forward_id=number, close_connections=True)


@pytest.mark.parametrize('expected, listen, target, options', [
    ('INVALID_ADDRESS', 'nonsense', '127.0.0.1:9', {}),
    ('INVALID_ADDRESS', '127.0.0.1:{}', '300.1.1.1:9', {}),
    ('INVALID_ADDRESS', '127.0.0.1:{}', '0.0.0.0:9', {}),
    ('INVALID_ADDRESS', 'localhost:{}', '127.0.0.1:9', {}),
    ('INVALID_ADDRESS', '198.51.100.7:{}', '127.0.0.1:9', {}),
    ('INVALID_ADDRESS', '127.0.0.1:{}', '127.0.0.1:9\nx:1', {}),
    ('INVALID_PORT', '127.0.0.1:0', '127.0.0.1:9', {}),
    ('INVALID_PORT', '127.0.0.1:{}', '127.0.0.1:65536', {}),
    ('INVALID_OPTION', '127.0.0.1:{}', '127.0.0.1:9', {'path': 'fast'}),
    ('INVALID_OPTION', '127.0.0.1:{}', '127.0.0.1:9', {'idle_timeout_s': 1e9}),
    ('INVALID_OPTION', '127.0.0.1:{}', '127.0.0.1:9', {'idle_timeout_s': float('nan')}),
    ('INVALID_OPTION', '127.0.0.1:{}', '127.0.0.1:9', {'connect_timeout_s': 0.01}),
    ('INVALID_OPTION', '127.0.0.1:{}', '127.0.0.1:9', {'max_connections': 200_000}),
    ('FORWARD_TO_ITSELF', '127.0.0.1:{0}', '127.0.0.1:{0}', {}),
    ('FORWARD_TO_ITSELF', ':{0}', '[::1]:{0}', {}),
    ('FORWARD_TO_ITSELF', '0.0.0.0:{0}', 'localhost:{0}', {}),
    ('UNKNOWN_HOST', '127.0.0.1:{}', 'there-is-none.invalid:9', {}),
    ('NOT_ALLOWED', '127.0.0.1:{}', '192.0.2.7:9', {}),
    ('NOT_ALLOWED', '127.0.0.1:{}', '[2001:db8::1]:9', {}),
    ('NOT_ALLOWED', '127.0.0.1:{}', '[::ffff:192.0.2.7]:9', {})], ids=str)
def test_refused(node, block, expected, listen, target, options):
    """With a code, and nothing changed."""
    before = node.look()[0]
    number = block.last
    assert node.code('add_forward', listen=listen.format(number), backend=target.format(number),
                     **options) == expected
    assert node.look()[0].keys() == before.keys()
    assert refused(number)


def test_in_use(node, add, block, port):
    """By another process, by another forward; and a way back that goes by another forward."""
    with listening() as taken:
        answer = node.ask('add_forward', backend='127.0.0.1:9',
                          listen=f'127.0.0.1:{taken.getsockname()[1]}')
    assert answer.error_code == answer.ADDRESS_IN_USE
    assert 'ss -ltnp' in answer.error_msg
    other = next(block)
    number = add(f'127.0.0.1:{port}', f'127.0.0.1:{other}')
    answer = node.ask('add_forward', listen=f'127.0.0.1:{port}', backend='127.0.0.1:9')
    assert answer.error_code == answer.ADDRESS_IN_USE
    assert f'forward {number} does already' in answer.error_msg
    assert node.code('add_forward', listen=f':{other}',
                     backend=f'127.0.0.1:{port}') == 'FORWARD_TO_ITSELF'


@pytest.mark.parametrize('allowed, answers', [
    ([], {'127.0.0.9:9': 'NOT_ALLOWED'}),
    (['127.0.0.8/29', 'fc00::/7'],
     {'127.0.0.1:9': 'NOT_ALLOWED', 'localhost:9': 'NOT_ALLOWED', '[::1]:9': 'NOT_ALLOWED',
      '127.0.0.9:9': 'SUCCESS'})], ids=str)
def test_service_backends(client, block, backend, tmp_path, allowed, answers):
    """Services connect only to what the parameter says; those of parameters to anything."""
    with SockmapProcess(client, tmp_path, service_backends=allowed, kernel_path='never',
                        forwards=[f'127.0.0.1:{block.last - 1} -> 127.0.0.1:{backend}']) as node:
        node.bring_up()
        assert node.parameters()['service_backends'][0] == allowed
        for target, expected in answers.items():
            assert node.code('add_forward', listen=f'127.0.0.1:{block.last}',
                             backend=target) == expected, target
            assert refused(block.last) == (expected != 'SUCCESS')
        # It is of the parameters.
        assert node.code('remove_forward', forward_id=1) == 'NOT_ALLOWED'
        assert not refused(block.last - 1)
        assert node.errors() == []


@pytest.mark.parametrize('close', [False, True])
def test_remove(node, add, backend, port, close):
    """It listens no more; open connections go on, or end, as asked."""
    number = add(f':{port}', f'localhost:{backend}')
    with connect(port, '::1') as six, connect(port) as four:
        for sock in six, four:
            echo(sock, b'before')
        assert node.code('remove_forward', forward_id=number,
                         close_connections=close) == 'SUCCESS'
        assert refused(port)
        assert node.code('remove_forward', forward_id=number) == 'NO_SUCH_FORWARD'
        if close:
            assert ended(six) and ended(four)
        else:
            for sock in six, four:
                echo(sock, bytes(100_000))
            shown = node.look()[0][number]
            assert (shown.listening, shown.open) == (False, 2)
            # The place is free, while those connections are open still.
            again = add(f':{port}', f'127.0.0.1:{backend}')
            assert again != number
    node.client.spin_until(lambda: number not in node.look()[0], 'it is forgotten')
    assert node.code('remove_forward', forward_id=0) == 'NO_SUCH_FORWARD'


def test_list(node, add, backend, port):
    """What was asked for, and what each connection is."""
    number = add(f'127.0.0.1:{port}', f'localhost:{backend}', path='splice', idle_timeout_s=-1.0,
                 connect_timeout_s=2.5, max_connections=7, proxy_protocol=True)
    with ExitStack() as stack:
        socks = [stack.enter_context(connect(port)) for _ in range(3)]
        for sock in socks:
            sock.sendall(b'x')
            assert sock.recv(13) == b'\r\n\r\n\0\r\nQUIT\n\x21'  # the header, echoed
        answer = node.ask('list_forwards', forward_id=number, connections=2)
        shown, = answer.forwards
        assert (shown.listen, shown.backend, shown.path, shown.origin, shown.idle_timeout_s,
                shown.connect_timeout_s, shown.max_connections, shown.proxy_protocol) == (
            f'127.0.0.1:{port}', f'localhost:{backend}', 'splice', 'service', 0.0, 2.5, 7, True)
        assert f'127.0.0.1:{backend}' in shown.backend_addresses
        assert (shown.open, shown.splice, shown.accepted, shown.health) == (3, 3, 3, 'up')
        assert len(answer.connections) == 2
        found = node.ask('list_forwards', forward_id=number, connections=9).connections
        assert {each.client for each in found} == {
            f'127.0.0.1:{sock.getsockname()[1]}' for sock in socks}
        assert {(each.forward_id, each.backend, each.path, each.reason) for each in found} == {
            (number, f'127.0.0.1:{backend}', 'splice', 'shortcut_forbidden, sk_skb_forbidden')}
        assert all(each.age_s >= each.idle_s >= 0.0 for each in found)
        assert node.ask('list_forwards').connections == []
    assert node.ask('list_forwards', forward_id=1 << 31).forwards == []


@pytest.mark.parametrize('path', PATHS)
def test_figures(node, add, port, path):
    """~/status adds up with what was sent, while connections are open and afterwards."""
    heard = node.status()

    def wait(**expected):
        def there():
            found = [each for message in heard[-1:] for each in message.forwards
                     if each.id == number]
            return found and expected.items() <= {
                name: getattr(found[0], name) for name in expected}.items() and found[0]
        shown = node.client.spin_until(there, f'{expected} in {heard[-1:]}')
        assert heard[-1].state == State.PRIMARY_STATE_ACTIVE
        assert shown.open == sum(getattr(shown, name) for name in ('connecting', *PATHS))
        return shown
    with listening() as backend, ExitStack() as stack:
        number = add(f'127.0.0.1:{port}', f'127.0.0.1:{backend.getsockname()[1]}', path=path)
        onward = back = 0
        for count in 1, 2, 3:
            sock = stack.enter_context(connect(port))
            server = stack.enter_context(backend.accept()[0])
            server.settimeout(PATIENCE)
            settle(sock, server)
            sock.sendall(bytes(1000 * count))
            server.recv(1000 * count, 256)  # MSG_WAITALL
            server.sendall(bytes(10 * count))
            sock.recv(10 * count, 256)
            onward, back = onward + 21 + 1000 * count, back + 21 + 10 * count
        wait(open=3, accepted=3, bytes_onward=onward, bytes_back=back, health='up', **{path: 3})
        last, = [each for each in heard[-1].forwards if each.id == number]
        assert sum(each.value for each in last.counters) == 0
    shown = wait(open=0, accepted=3, bytes_onward=onward, bytes_back=back)
    assert {each.name: each.value for each in shown.counters if each.value} == {'finished': 3}
    counters = {each.name: (each.value, each.unit) for each in heard[-1].counters}
    assert counters[f'ended_{path}'][0] >= 3
    assert counters[f'ended_{path}'][1] == 'connections'
    late = node.status()
    node.client.spin_until(lambda: late, 'a late subscriber has it')


def test_parameters(node):
    """Each is described; the file in config/ names them all; fixed ones are refused now."""
    there = node.parameters()
    written = yaml.safe_load(CONFIG.read_text())['/**']['ros__parameters']
    assert written.keys() == there.keys()
    for name, (_, descriptor) in there.items():
        assert descriptor.description.endswith('.'), name
    for name, value in (
            ('forwards', []), ('kernel_path', 'never'), ('path', 'splice'),
            ('idle_timeout_s', 7.0), ('max_connections', 7), ('proxy_protocol', True),
            ('cgroup_path', '/x')):
        refusal = node.set_parameters(**{name: value})
        assert not refusal.successful
        assert refusal.reason.startswith(f'{name} can be set in state unconfigured only')
        assert '\n' not in refusal.reason
    # Who may connect where is for who starts the node to say, not for the ROS graph.
    for name, value in (
            ('service_backends', ['0.0.0.0/0']), ('service_listen_ports', ['1-65535', '22']),
            ('prometheus_port', 1), ('prometheus_address', '0.0.0.0')):
        assert 'read-only' in node.set_parameters(**{name: value}).reason
    assert not node.set_parameters(status_period_s=0.5, path='splice').successful
    assert not node.set_parameters(status_period_s=0.0).successful
    assert node.parameters()['status_period_s'][0] == 0.1
    heard = node.status()
    assert node.set_parameters(status_period_s=0.2, diagnostics_period_s=0.1).successful
    node.client.spin_until(lambda: len(heard) > 3, 'the status comes still')
    assert node.set_parameters(status_period_s=0.1).successful


def test_metrics(node, add, block, backend, port):
    """GET /metrics has what ~/status has."""
    from prometheus_client.parser import text_string_to_metric_families
    number = add(f'127.0.0.1:{port}', f'127.0.0.1:{block.last}', path='splice')
    assert turned_away(port)
    where = f'http://127.0.0.1:{block.first + 1}'

    def ask():
        with urllib.request.urlopen(f'{where}/metrics', timeout=PATIENCE) as answer:
            assert answer.headers['Content-Type'].startswith('text/plain')
            text = answer.read().decode()
        return {(sample.name, *sorted(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text) for sample in family.samples}

    def value(found, name, **labels):
        return sum(count for (key, *items), count in found.items()
                   if key == f'ipc_bypass_proxy_{name}' and labels.items() <= {*items})
    before, own = ask(), {'forward': '1', 'listen': f'127.0.0.1:{block.first}',
                          'backend': f'127.0.0.1:{backend}'}
    with connect(block.first) as sock:
        for _ in range(10):
            echo(sock, bytes(1000))
        now = ask()
        assert value(now, 'active_pairs', path='shortcut', **own) == 1
        assert value(now, 'active_pairs') == 1
        for name, labels, more in (
                ('bytes_total', {'direction': 'onward', **own}, 10_000),
                ('bytes_total', {'direction': 'back', **own}, 10_000),
                ('accepted_connections_total', own, 1)):
            assert value(now, name, **labels) - value(before, name, **labels) == more
        for status in 'redirected_messages', 'gateway_ends':
            labels = {'program': 'sk_msg', 'status': status}
            assert value(now, 'redirects_total', **labels) > value(
                before, 'redirects_total', **labels)
    assert value(now, 'redirects_total', program='sk_skb', status='redirected') >= 0
    assert value(now, 'connect_errors_total', forward=str(number), reason='refused') == 1
    assert value(now, 'backend_up', **own) == 1
    with echoing(port=block.last), connect(port) as sock:
        echo(sock, b'x')
        assert value(ask(), 'fallbacks_total', reason='shortcut_forbidden') - value(
            now, 'fallbacks_total', reason='shortcut_forbidden') == 1
    with pytest.raises(urllib.error.HTTPError, match='404'):
        urllib.request.urlopen(f'{where}/other', timeout=PATIENCE)
