"""Measurements that validate before they time."""
