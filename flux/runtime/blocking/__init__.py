# Generated from flux/runtime/awaited/__init__.py by `make generate`: change that, not this.
"""What blocks: generated from `flux.runtime.awaited`, see there."""
