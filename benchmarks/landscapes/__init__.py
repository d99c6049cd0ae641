"""Simulated and measured landscapes: tables of configurations and what they would show, for replays of searches. Not shipped."""
