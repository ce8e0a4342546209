"""Engines: what is asked, built in a process of its own, checked and told; the steps of to_engine."""
