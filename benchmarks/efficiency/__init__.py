"""How many deployments a sampler needs, found out on recorded tables: see `benchmarks/sample_efficiency.py`."""
