"""AF_XDP sockets with rings in numpy: receive, hand over, transmit, reinject."""
