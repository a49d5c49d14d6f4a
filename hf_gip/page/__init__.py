"""One self-contained page about a selection."""
