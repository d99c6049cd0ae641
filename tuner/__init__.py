"""tuner finds the serving configuration of an LLM engine with the best latency/throughput trade-off on the user's GPUs and traffic."""

__version__ = "0.1.0"
