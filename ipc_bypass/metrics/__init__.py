"""What the nodes count, as text for Prometheus on an HTTP port."""
