"""What is measured: a module per library, a function per kind of work. Each runs in a fresh process."""
