"""The door to the Hub: publish a subset in one commit, and load, verify and reproduce what others published."""
