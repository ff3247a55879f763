"""Which way every publisher and subscriber pair of this host takes, and why not a faster one."""
