"""Sphinx: the reference of the Python package, made by scripts/docs."""

import re
import sys

project = 'ipc_bypass'
author = 'ipc_bypass maintainers'
extensions = ['sphinx.ext.autodoc']
html_theme = 'alabaster'
html_theme_options = {'page_width': '1200px', 'sidebar_width': '320px'}
# Where a name in backticks is none of ours it is code.
default_role = 'code'
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_mock_imports = ['ros2doctor', 'launch', 'launch_ros', 'bcc']
# A reference to something of ours has to lead somewhere; what is of others is not looked up,
# since that takes the network.
nitpicky = True
# That a short name may mean one of two is no broken reference.
suppress_warnings = ['ref.python']
nitpick_ignore_regex = [('py:.*', r'(?!ipc_bypass\.).*'), ('py:.*', r'.*\._\w+')]
_COLUMNS = re.compile(r'^\S+ {2,}\S')
# A word that ends with an underscore is a name's beginning here, and no reference.
_UNDERSCORE = re.compile(r'(?<![`\w])(\w+)_(?=\W|$)(?!`)')


def _as_text(_app, _what, _name, _thing, _options, lines):
    """Show blocks in columns, and what is indented, as they are written."""
    shown, literal = [], False
    for number, line in enumerate(lines):
        field = line.lstrip().startswith(':')
        begins = bool(_COLUMNS.match(line)) or (
            line.startswith(' ') and not field and not _continues(lines, number))
        if begins and not literal:
            shown += ['', '::', '']
            literal = True
        elif literal and line and not line.startswith(' ') and not begins:
            shown.append('')
            literal = False
        shown.append(f'    {line}' if literal and line else
                     _UNDERSCORE.sub(r'\1\\_', line))
    lines[:] = [*shown, '']


def _continues(lines, number):
    """Return whether an indented line belongs to a field or an entry of a list above it."""
    for line in reversed(lines[:number]):
        if not line:
            return False
        if not line.startswith(' '):
            return line.startswith((':', '- ', '* '))
    return False


def setup(app):
    """Connect the hook."""
    app.connect('autodoc-process-docstring', _as_text)
    sys.setrecursionlimit(5000)
