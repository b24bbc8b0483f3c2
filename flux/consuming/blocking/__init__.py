# Generated from flux/consuming/awaited/__init__.py by `make generate`: change that, not this.
"""What blocks: generated from `flux.consuming.awaited`, see there."""
