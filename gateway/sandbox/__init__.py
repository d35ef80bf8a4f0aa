"""Isolation of tool servers. `contract` says what a driver offers; nothing here knows of policies."""
