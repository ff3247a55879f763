"""Forwards as text, and those that are refused."""

from ipc_bypass.proxy.endpoint import Endpoint, is_local, plain_address
from ipc_bypass.proxy.errors import ForwardError
from ipc_bypass.proxy.forward import check_loop, Forward
from ipc_bypass.proxy.helper import ProxySettings
import pytest


@pytest.mark.parametrize('text, host, port, shown', [
    ('127.0.0.1:9090', '127.0.0.1', 9090, '127.0.0.1:9090'),
    (':9090', '::', 9090, '[::]:9090'),
    ('[::1]:65535', '::1', 65535, '[::1]:65535'),
    ('[]:1', '::', 1, '[::]:1'),
    ('robot-7.local:80', 'robot-7.local', 80, 'robot-7.local:80'),
    (' 0.0.0.0:80 ', '0.0.0.0', 80, '0.0.0.0:80'),
    ('[2001:DB8::1]:80', '2001:db8::1', 80, '[2001:db8::1]:80')])
def test_endpoints(text, host, port, shown):
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port, str(endpoint)) == (host, port, shown)
    assert Endpoint.parse(str(endpoint)) == endpoint


@pytest.mark.parametrize('text, code', [
    ('', 'INVALID_ADDRESS'), ('127.0.0.1', 'INVALID_ADDRESS'), ('::1:80', 'INVALID_ADDRESS'),
    ('1.2.3.4.5:80', 'INVALID_ADDRESS'), ('300.1.1.1:80', 'INVALID_ADDRESS'),
    ('[zz]:80', 'INVALID_ADDRESS'), ('a b:80', 'INVALID_ADDRESS'), ('-x:80', 'INVALID_ADDRESS'),
    ('h:0', 'INVALID_PORT'), ('h:65536', 'INVALID_PORT'), ('h:123456', 'INVALID_ADDRESS'),
    ('h:-1', 'INVALID_ADDRESS')])
def test_wrong_endpoints(text, code):
    with pytest.raises(ForwardError) as caught:
        Endpoint.parse(text)
    assert caught.value.code == code


@pytest.mark.parametrize('text', [
    '0.0.0.0:9090 -> 192.0.2.7:9091',
    '[::]:9090 -> backend:80 path=splice idle_timeout_s=2.5 connect_timeout_s=1 '
    'max_connections=7 proxy_protocol=on'])
def test_forwards(text):
    assert str(Forward.parse(text)) == text
    assert Forward.parse(text.replace(' -> ', '->')) == Forward.parse(text)


@pytest.mark.parametrize('text, code', [
    ('', 'INVALID_ADDRESS'), (':1', 'INVALID_ADDRESS'), (':1 -> ', 'INVALID_ADDRESS'),
    (':1 -> h:2 fast', 'INVALID_OPTION'), (':1 -> h:2 path=fast', 'INVALID_OPTION'),
    (':1 -> h:2 max_connections=0', 'INVALID_OPTION'),
    (':1 -> h:2 max_connections=many', 'INVALID_OPTION'),
    (':1 -> h:2 idle_timeout_s=-1', 'INVALID_OPTION'),
    (':1 -> h:2 idle_timeout_s=nan', 'INVALID_OPTION'),
    (':1 -> h:2 proxy_protocol=perhaps', 'INVALID_OPTION'),
    (':1 -> h:2 color=red', 'INVALID_OPTION'), (':0 -> h:2', 'INVALID_PORT'),
    ('name:1 -> h:2', 'INVALID_ADDRESS'), (':1 -> 0.0.0.0:2', 'INVALID_ADDRESS')])
def test_wrong_forwards(text, code):
    with pytest.raises(ForwardError) as caught:
        Forward.parse(text)
    assert caught.value.code == code


def test_defaults():
    """What a forward does not name is the node's."""
    settings = ProxySettings(forwards=(':1 -> h:2', ':3 -> h:4 path=sk_skb idle_timeout_s=1'),
                             path='splice', idle_timeout_s=9.0, max_connections=5)
    first, second = settings.parsed()
    assert (first.path, first.idle_timeout_s, first.max_connections) == ('splice', 9.0, 5)
    assert (second.path, second.idle_timeout_s, second.max_connections) == ('sk_skb', 1.0, 5)


@pytest.mark.parametrize('listen, backend', [
    ('127.0.0.1:7001', '127.0.0.1:7001'), ('0.0.0.0:7001', '127.0.0.1:7001'),
    (':7001', '127.0.0.9:7001'), (':7001', '[::1]:7001'), ('[::1]:7001', '[::1]:7001'),
    (':7001', 'localhost:7001')])
def test_forward_to_itself(listen, backend):
    forward = Forward.parse(f'{listen} -> {backend}')
    with pytest.raises(ForwardError) as caught:
        check_loop(forward, forward.backend.resolve(), [])
    assert caught.value.code == 'FORWARD_TO_ITSELF'


def test_a_circle_of_forwards():
    """Also one by way of others is found; a chain that ends is none."""
    def check(text, *others):
        forwards = [Forward.parse(each) for each in (text, *others)]
        check_loop(forwards[0], forwards[0].backend.resolve(),
                   [(each, each.backend.resolve()) for each in forwards[1:]])
    others = ':7002 -> 127.0.0.1:7003', ':7003 -> 127.0.0.1:7001'
    with pytest.raises(ForwardError, match='itself'):
        check(':7001 -> 127.0.0.1:7002', *others)
    check(':7001 -> 127.0.0.1:7004', *others)
    check(':7001 -> 192.0.2.1:7001', *others)
    check('127.0.0.1:7001 -> 127.0.0.2:7001')


def test_addresses():
    assert is_local('127.0.0.1') and not is_local('192.0.2.1')
    assert plain_address('::ffff:192.0.2.1') == '192.0.2.1'
    assert plain_address('fe80::1%lo') == 'fe80::1'


def test_unknown_host():
    with pytest.raises(ForwardError) as caught:
        Endpoint('no-such-host.invalid', 80).resolve()
    assert caught.value.code == 'UNKNOWN_HOST'
