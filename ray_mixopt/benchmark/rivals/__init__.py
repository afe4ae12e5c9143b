"""Other people's search methods behind the benchmark's ``Method`` protocol.

Their settings are in ``settings.toml``. Each minimises the scalar objective, pays only the further steps of a run it
goes on with, as ours does, and imports its packages when it is made.
"""
