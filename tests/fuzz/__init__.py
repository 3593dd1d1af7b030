"""Fuzzing: mutated photos, manifests, addresses, Parquet objects and settings. ``make fuzz MINUTES=10`` runs it.

A case is its number: the same seed and number give the same bytes, so that a finding can be made again. What was found
once is kept in ``found/`` and tried by every test run.
"""
