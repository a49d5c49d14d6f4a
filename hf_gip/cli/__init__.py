"""The command line: `hf-gip`."""
