"""Entries of an auth file whose token is the principal's name."""

from __future__ import annotations

import hashlib

__all__ = ["token_entry"]


def token_entry(name: str, *roles: str) -> str:
    """Return one entry of `tokens:`, with its line end."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f'  - {{sha256: "{digest}", principal: {name}, roles: [{", ".join(roles)}]}}\n'
