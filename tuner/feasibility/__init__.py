"""Tells configurations that can certainly not run, before they cost a deployment: a memory model, and what past launches taught."""
