"""The sub-commands of `ipc-bypass proxy` that a running node answers."""

import json

from ipc_bypass.cli import asking
from ipc_bypass.cli.asking import said
from ipc_bypass.cli.proxy_table import render
from ipc_bypass.cli.status import plain
from ipc_bypass.cli.status_table import console
from ipc_bypass_interfaces.srv import AddForward, ListForwards, RemoveForward


def status(args):
    """Print the forwards, and connections if they are asked for."""
    answer = _ask(args, ListForwards, 'list_forwards', forward_id=args.forward,
                  connections=args.connections)
    shown = {'forwards': plain(answer.forwards), 'connections': plain(answer.connections)}
    if args.json:
        print(json.dumps(shown, indent=2))
    else:
        console().print(render(shown))
    return 0


def add(args):
    """Add a forward and print its id."""
    answer = _ask(args, AddForward, 'add_forward', listen=args.listen, backend=args.backend,
                  path=args.path, idle_timeout_s=args.idle_timeout,
                  max_connections=args.max_connections, proxy_protocol=args.proxy_protocol)
    said(args, f'forward {answer.forward_id}', forward=answer.forward_id)
    return 0


def remove(args):
    """Remove a forward."""
    _ask(args, RemoveForward, 'remove_forward', forward_id=args.forward,
         close_connections=args.close_connections)
    said(args, f'forward {args.forward} is gone', forward=args.forward)
    return 0


def _ask(args, service, name, **request):
    return asking.ask(args, service, name, harmless=(ListForwards, 'list_forwards'),
                      launch_file='sockmap_helper.launch.py', **request)
