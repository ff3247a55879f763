"""
The constants of a header that kernel programs and Python share.

Named enumerations do not reach the type information of a program compiled by BCC, so they are
read from the header's text, the one place where they are declared.
"""

from pathlib import Path
import re

from ipc_bypass.kernel.errors import BypassError

_COMMENT = re.compile(r'/\*.*?\*/|//[^\n]*', re.DOTALL)
_ENUM = re.compile(r'\benum\s+(\w+)\s*\{([^}]*)\}')
_ENTRY = re.compile(r'(\w+)\s*=\s*(0[xX][0-9a-fA-F]+|\d+)')


def enumerations(path):
    """
    Return {enumeration: {name: number}} of a header.

    Raises BypassError where an entry has no value of its own, as then this and the compiler
    could come to differ.
    """
    text = _COMMENT.sub(' ', Path(path).read_text(encoding='utf-8'))
    found = {}
    for name, body in _ENUM.findall(text):
        entries = [part.strip() for part in body.split(',') if part.strip()]
        matches = [_ENTRY.fullmatch(entry) for entry in entries]
        if not all(matches):
            raise BypassError(f'read enum {name} of {path}', 'an entry has no value',
                              next_step='write each as NAME = number')
        found[name] = {match[1]: int(match[2], 0) for match in matches}
    return found
