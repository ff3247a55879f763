"""Texts that name rules: of the node, of domains, of the filter, limiter, sampler and bypass."""

from ipc_bypass.kernel.errors import BypassError
from ipc_bypass.nodes.enrollment import wanted_rules
from ipc_bypass.proxy.endpoint import Endpoint
from ipc_bypass.proxy.forward import Forward
from ipc_bypass.rules import rtps, table
from ipc_bypass.udp.prefixes import Prefixes
from ipc_bypass.xdp.bypass_flows import parse_flow
from ipc_bypass.xdp.filter import rules as filter_rules
from ipc_bypass.xdp.interfaces import check_patterns
from ipc_bypass.xdp.limits import parse_limit
from ipc_bypass.xdp.sampler_settings import parse_rule

#: (how it is read, whether its text reads as the same again)
_PARSERS = (
    (table.parse, True), (rtps.parse_domain, False), (rtps.parse_udp_domain, False),
    (filter_rules.parse, True), (parse_limit, True), (parse_rule, True), (parse_flow, False),
    (Endpoint.parse, True), (Forward.parse, True), (lambda text: Prefixes([text]), False),
    (lambda text: check_patterns([text]), False),
    (lambda text: wanted_rules([text], [text], [text]), False))


def seeds():
    """Yield texts of every form."""
    for text in (
            'tcp:7400-7500:accelerate', 'udp:7400:divert', '5201', '0:0-9:divert', '3:1', '232',
            'deny udp 7400-7500', 'allow from 10.1.0.0/16 to ff00::/8', 'allow tcp dport 22',
            'deny udp sport 53 not-rtps', 'allow domain 0:1-3 from 10.1.0.0/16',
            'allow protocol 47', '10.0.0.0/8 each /24 packets 1000 burst 200 bytes 1000000 '
            'byte_burst 100000 ports 7400-7500,9000 dry_run', 'fd00::/64 packets 1 discovery',
            'udp:7400-7500 from 10.0.0.0/8 to 239.255.0.1/32 every 10', 'icmp6 every 0',
            'udp from 10.1.0.0/16 port 1024-65535 to 10.2.0.5 port 7400-7500 via 10.3.0.1 dev '
            'eth1 bridged', 'any to any via 02:00:00:00:00:01 routed', '[::1]:9090',
            'example.org:80', '0.0.0.0:9090 -> 192.0.2.7:9090 path=splice idle_timeout_s=10 '
            'proxy_protocol=on max_connections=5', ':80 -> [::1]:81', 'bridge:br*', 'veth?',
            '10.9.0.0/16', 'fd00:9::/64'):
        yield text.encode()


def one(data):
    """Whatever a text says, it is read, or refused by one line that can be shown."""
    text = data.decode('utf-8', 'surrogateescape')
    for parse, prints in _PARSERS:
        try:
            found = parse(text)
        except BypassError as error:
            assert '\n' not in str(error) and str(error)
            continue
        if prints and found is not None:
            assert parse(str(found)) == found, (parse, text, str(found))
