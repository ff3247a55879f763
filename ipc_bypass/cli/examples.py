"""An example and the exit codes for each command, which its help text ends with."""

from __future__ import annotations

#: Exit codes of every command.
EXIT_CODES = {
    0: 'it was done; also after Ctrl-C where a command goes on until then',
    1: 'an error, said in one line on standard error',
    2: 'wrong arguments',
    130: 'interrupted before it was done',
}
#: Exit codes that mean something else, by command; the others are those above.
MORE_CODES = {
    'doctor': {1: 'this host cannot give the TCP path; with --graph-only: something in the graph '
               'warns; or an error'},
    'compare': {1: 'some way could not be measured, or an error'},
    'run': {'else': "the command's own exit code; 128 and the signal where one ended it"},
    **dict.fromkeys(('demo', 'bench dds', 'bench proxy', 'bench udp', 'bench xdp'),
                    {1: 'some figure could not be measured, or an error'}),
}
_FORWARD = "'0.0.0.0:9090 -> 127.0.0.1:19090'"
#: What to type, by command.
EXAMPLES = {
    'doctor': 'ipc-bypass doctor',
    'profile': 'ipc-bypass profile cyclonedds',
    'run': 'ipc-bypass run cyclonedds -- ros2 run demo_nodes_cpp talker',
    'compare': 'ipc-bypass compare --quick',
    'up': "ipc-bypass up -p \"rules:=['tcp:7400-7649']\"",
    'status': 'ipc-bypass status --watch',
    'top': 'ipc-bypass top --filter talker --sort delay',
    'export': 'ipc-bypass export --port 9432 & curl http://127.0.0.1:9432/metrics',
    'record': 'ipc-bypass record --duration 10 graph.pcapng',
    'tap': 'ipc-bypass tap --rule udp:7400-7500 --rtps',
    'proxy': 'ipc-bypass proxy status',
    'proxy run': f'ipc-bypass proxy run {_FORWARD}',
    'proxy status': 'ipc-bypass proxy status --connections 50',
    'proxy add': 'ipc-bypass proxy add 0.0.0.0:9090 127.0.0.1:19090 --idle-timeout 60',
    'proxy remove': 'ipc-bypass proxy remove 1 --close-connections',
    'xdp': 'ipc-bypass xdp status',
    'xdp status': 'ipc-bypass xdp status --interface eth0 --json',
    'xdp filter': 'ipc-bypass xdp filter status',
    'xdp filter status': 'ipc-bypass xdp filter status --pins',
    'xdp trace': 'ipc-bypass xdp trace on --interface eth0',
    'xdp attach': 'ipc-bypass xdp attach eth0 --mode native',
    'xdp detach': 'ipc-bypass xdp detach eth0',
    'xdp load': 'ipc-bypass xdp load 1 filter --interface eth0',
    'xdp unload': 'ipc-bypass xdp unload 1',
    'xdp fast-path': 'ipc-bypass xdp fast-path',
    'xdp rules': 'ipc-bypass xdp rules list',
    'xdp rules add': 'ipc-bypass xdp rules add deny udp dport 7400-7649',
    'xdp rules remove': 'ipc-bypass xdp rules remove 3',
    'xdp rules list': 'ipc-bypass xdp rules list --json',
    'xdp capture': 'ipc-bypass xdp capture --seconds 10 in.pcapng',
    'xdp echo': 'ipc-bypass xdp echo eth0 --port 4242 --table',
    'xdp forward': 'ipc-bypass xdp forward veth0 veth1 --seconds 60',
    'xdp pipeline': 'ipc-bypass xdp pipeline eth0 --udp-port 4242 --handler my_module:handle',
    'bench': 'ipc-bypass bench dds --quick',
    'bench dds': 'ipc-bypass bench dds --quick --json figures.json',
    'bench proxy': 'ipc-bypass bench proxy --quick --json figures.json',
    'bench small-writes': 'ipc-bypass bench small-writes --quick --json figures.json',
    'bench udp': 'ipc-bypass bench udp --quick --json figures.json',
    'bench xdp': 'ipc-bypass bench xdp --quick --json figures.json',
    'demo': 'ipc-bypass demo --quick --chart demo.png',
}


def epilog(command: str, *, leaf: bool) -> str:
    """
    Return what the help text of a command ends with.

    :param command: its words, for example 'xdp rules add'
    :param leaf: whether it has no sub-commands, so that it has exit codes
    """
    lines = []
    if command in EXAMPLES:
        lines += ['example:', f'  {EXAMPLES[command]}', '']
    if leaf:
        lines.append('exit codes:')
        lines += [f'  {code}  {text}' for code, text in codes(command).items()]
    return '\n'.join(lines).rstrip()


def codes(command: str) -> dict:
    """Return {exit code: meaning} of a command; 'else' for any other one."""
    return EXIT_CODES | MORE_CODES.get(command, {})
