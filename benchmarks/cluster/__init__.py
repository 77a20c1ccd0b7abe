"""Hosts made of network namespaces, what runs on them, and where ZeroPP wins there."""
