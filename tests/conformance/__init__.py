"""The public clients, unmodified, against a real server on loopback."""
