# Generated from flux/consuming/awaited/__init__.py by `make generate`: change that, not this.
"""The blocking form: generated from `flux.consuming.awaited`, see there."""
