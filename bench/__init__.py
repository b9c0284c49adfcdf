"""Benchmarks: `python -m bench.loops` times loops against compiled loops."""
