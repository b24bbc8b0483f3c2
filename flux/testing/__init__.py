"""What tests of flux, of tasks and of adapters are made of."""
