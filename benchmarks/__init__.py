"""Benchmarks of tuner itself, run from the repository: `python -m benchmarks.NAME`. Not shipped."""
