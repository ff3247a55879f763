"""The sub-commands of `ipc-bypass xdp` that a running node answers."""

import json

from ipc_bypass.cli import asking
from ipc_bypass.cli.asking import said
from ipc_bypass.cli.status import plain
from ipc_bypass.cli.xdp_table import fast_path_text, rules_text
from ipc_bypass.xdp.filter.status import FilterStatus, RuleStatus
from ipc_bypass_interfaces.srv import (
    XdpAddRule,
    XdpAttach,
    XdpDetach,
    XdpGetStatus,
    XdpListRules,
    XdpLoadSlot,
    XdpRemoveRule,
    XdpUnloadSlot,
)


def attach(args):
    """Attach an interface and say in which mode."""
    answer = ask(args, XdpAttach, 'attach', interface=args.interface, mode=args.mode)
    _interfaces(args, answer, lambda interface: f'{interface.mode} mode' + (
        f', since {interface.reason}' if interface.reason else ''))
    return 0


def detach(args):
    """Detach an interface."""
    answer = ask(args, XdpDetach, 'detach', interface=args.interface)
    _interfaces(args, answer, lambda interface: 'not attached')
    return 0


def load(args):
    """Load a program into a slot and print the ids that it has."""
    answer = ask(args, XdpLoadSlot, 'load_slot', interface=args.interface, slot=args.slot,
                 program=args.program)
    said(args, f"slot {args.slot}: program {', '.join(map(str, answer.program_ids))}",
         slot=args.slot, program_ids=plain(answer.program_ids))
    return 0


def unload(args):
    """Empty a slot."""
    ask(args, XdpUnloadSlot, 'unload_slot', interface=args.interface, slot=args.slot)
    said(args, f'slot {args.slot}: empty', slot=args.slot)
    return 0


def add_rule(args):
    """Add a rule to the filter and print its id."""
    answer = ask(args, XdpAddRule, 'add_rule', rule=' '.join(args.rule))
    said(args, f'rule {answer.rule_id}', rule=answer.rule_id)
    return 0


def remove_rule(args):
    """Remove a rule, given by its id or by its text."""
    text = ' '.join(args.rule)
    number = int(text) if text.isascii() and text.isdigit() else 0
    answer = ask(args, XdpRemoveRule, 'remove_rule', rule_id=number, rule='' if number else text)
    said(args, f'rule {answer.rule_id} is gone', rule=answer.rule_id)
    return 0


def list_rules(args):
    """Print the rules with what they decided."""
    answer = ask(args, XdpListRules, 'list_rules')
    rules = plain(answer.rules)
    if args.json:
        print(json.dumps({'settings': plain(answer.settings), 'rules': rules}, indent=2))
    else:
        print(rules_text(rules))
    return 0


def fast_path(args):
    """Print the container fast path."""
    shown = plain(ask(args, XdpGetStatus, 'get_status').status.fast_path)
    print(json.dumps(shown, indent=2) if args.json else fast_path_text(shown))
    return 0


def filters(args):
    """Return {interface: FilterStatus} as the node has them; raises BypassError."""
    answer = ask(args, XdpListRules, 'list_rules')
    return {each.interface: FilterStatus(
        each.engine, each.reason, dict(map(_setting, each.settings)),
        tuple(RuleStatus(rule.id, rule.rule, rule.origin, rule.packets, rule.bytes)
              for rule in each.rules),
        {outcome.name: outcome.value for outcome in each.outcomes})
        for each in answer.filters}


def _interfaces(args, answer, text):
    """Print a line for each interface of an answer, or all of it with --json."""
    if args.json:
        print(json.dumps({'interfaces': plain(answer.interfaces)}))
        return
    for interface in answer.interfaces:
        print(f'{interface.name}: {text(interface)}')


def _setting(line):
    """Return (name, value) of a line as 'frags_drop: true'."""
    name, _, text = line.partition(': ')
    if text in ('true', 'false'):
        return name, text == 'true'
    return name, int(text) if text.isdigit() else text


def ask(args, service, name, **request):
    """Call a service of the node and return its answer; see asking.ask."""
    return asking.ask(args, service, name, harmless=(XdpListRules, 'list_rules'),
                      launch_file='xdp_helper.launch.py', **request)
