"""Runs as tables, tables as figures."""
