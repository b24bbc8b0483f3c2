"""The in-memory broker beside a real Kafka: the same steps through every adapter, and what the ports return compared.

`steps` generates sequences, `play` makes each step concrete on the in-memory broker and repeats it on the others,
`subject` performs a step through one adapter, `freedoms` names what may differ.
"""
