"""The TCP path: connections of enrolled ports, redirected from socket to socket."""
