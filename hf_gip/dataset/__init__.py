"""The door to `datasets`."""
