"""`make prove`: what a sceptic runs. Each stage can be run alone; see `proof.__main__`."""
