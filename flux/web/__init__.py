"""Web pages that show tasks: `flux web`.

Pages are rendered on the server; one sampler queries the clusters for all visitors. Buttons call functions of
`flux.operate`.
"""
