"""Runs producers: takes records from any thread, passes them to the client in order, and handles acknowledgements."""
