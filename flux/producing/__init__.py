"""Runs producers: takes records from any thread, hands them to the client in order, hears their ends."""
