"""Replay: studies on a table of recorded measurements. Nothing is deployed; time is charged to a virtual clock instead of spent."""
