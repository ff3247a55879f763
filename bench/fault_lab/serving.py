"""The side of a process of the lab that is asked: lines of JSON in, lines of JSON out."""

import json
import sys


def serve(part, ready=None):
    """
    Answer the lines of standard input, [method, argument, ...], until it ends.

    :param part: the object whose methods are called
    :param ready: the answer that is given before any line, None for none
    """
    if ready is not None:
        _say({'answer': ready})
    for line in sys.stdin:
        method, *arguments = json.loads(line)
        try:
            answer = {'answer': getattr(part, method)(*arguments)}
        except Exception as error:  # the one who asks shows it
            answer = {'error': f'{type(error).__name__}: {error}'}
        _say(answer)


def _say(answer):
    print(json.dumps(answer), flush=True)
