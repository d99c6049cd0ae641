"""What stopping trials early saves, and what it loses, found out on recorded tables: see `benchmarks/pruning.py`."""
