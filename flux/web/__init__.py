"""Pages to look at tasks, by a browser: `flux web`.

Everything is rendered here; one sampler looks at the clusters for all who watch. The functions of `flux.operate` do
what the buttons say.
"""
