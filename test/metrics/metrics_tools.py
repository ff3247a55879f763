"""Messages as the nodes send them, full of numbers, and the samples that come of them."""

import importlib
import itertools

from ipc_bypass.metrics.exporter import Exporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families


class Now:
    """A clock that stands still until it is told to go on."""

    def __init__(self):
        """Begin at 1000 s."""
        self.seconds = 1000.0

    def __call__(self):
        """Return the time."""
        return self.seconds


class Publishers(dict):
    """How many publishers each topic has; one, where nothing else is said."""

    def __missing__(self, _part):
        return 1


def exporter(limit=10, **options):
    """Return (Exporter, its clock, its publishers)."""
    clock, publishers = Now(), Publishers()
    return Exporter(limit=limit, stale_after=5.0, publishers=publishers.__getitem__, clock=clock,
                    **options), clock, publishers


class Collected:
    """What prometheus_client takes from an Exporter."""

    def __init__(self, made):
        """Take it."""
        self.collect = made.families


def exposition(made):
    """Return the text that Prometheus would get."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collected(made))
    return generate_latest(registry).decode()


def samples(made):
    """Return {(name, (values of labels in the order of their names)): value}."""
    return parsed(exposition(made))


def parsed(text):
    """Return the same of a text."""
    return {(sample.name.removeprefix('ipc_bypass_'),
             tuple(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}


def filled(message, numbers=None):
    """Fill every number of a message with another one, texts with names, and lists with two."""
    numbers = numbers or itertools.count(1)
    for name, kind in message.get_fields_and_field_types().items():
        value = getattr(message, name)
        if hasattr(value, 'get_fields_and_field_types'):
            filled(value, numbers)
        elif isinstance(value, bool):
            setattr(message, name, True)
        elif isinstance(value, int):
            setattr(message, name, next(numbers) % 200)
        elif isinstance(value, float):
            setattr(message, name, float(next(numbers)))
        elif isinstance(value, str):
            setattr(message, name, f'{name}_{next(numbers)}')
        elif kind.startswith('sequence<') and '/' in kind:
            setattr(message, name, [filled(_type(kind)(), numbers) for _ in range(2)])
        elif kind == 'sequence<string>':
            setattr(message, name, ['one', 'two'])
        elif kind.startswith('sequence<'):
            setattr(message, name, [next(numbers), next(numbers)])
    return message


def _type(kind):
    package, name = kind.removeprefix('sequence<').rstrip('>').split('/')
    return getattr(importlib.import_module(f'{package}.msg'), name)
