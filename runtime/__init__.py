"""Tokens through weights."""
