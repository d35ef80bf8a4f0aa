"""Programs that run inside containers, below `/opt/sandgate`. Standard library only; not for import here."""
