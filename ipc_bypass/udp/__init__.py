"""The UDP path: datagrams to enrolled ports, copied or diverted at the send."""
