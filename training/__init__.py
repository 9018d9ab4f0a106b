"""Trains the small RWKV-7 checkpoint that ships with rwkv-edge."""
