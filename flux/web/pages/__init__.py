"""The pages, a file each: each asks for values, and a template shows them."""
