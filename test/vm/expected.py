"""
What the product refuses on a kernel, in its own words; anything else that fails is a fault.

A kernel that has what it needs is never among these: there a refusal is a fault, too.
"""

#: {kernel: {suite: parts of the reasons, one of which each refusal has}}.
_NO_EXCHANGE = 'the kernel has no atomic compare and exchange in programs'
_NO_VERDICT = 'it takes no verdict program without a parser'
_NO_BUFFERS = 'the kernel has no helper to read packets of several buffers'
_NO_TCX = 'the kernel has no tcx links'
_NO_FEATURES = 'told by kernel 6.3 or later alone'
_NO_FRAGS = 'the kernel does not know this kind of program, or this flag'
REFUSED = {
    '5.10': {'tcp': (_NO_VERDICT,), 'udp': (_NO_EXCHANGE,), 'limiter': (_NO_EXCHANGE, _NO_FRAGS),
             'sampler': (_NO_BUFFERS, _NO_FRAGS), 'filter': (_NO_FRAGS,), 'xdp': (_NO_FRAGS,),
             'bypass': (_NO_FRAGS, _NO_FEATURES), 'devmap': (_NO_FRAGS,), 'af_xdp': (_NO_FRAGS,),
             'fast_path': (_NO_TCX,), 'proxy': (_NO_VERDICT,)},
    '6.1': {'bypass': (_NO_FEATURES,), 'fast_path': (_NO_TCX,)},
}
