"""The pages: each computes values, and a template shows them."""
