"""What people on call do to a task's records, as functions: the command line is a thin layer over them."""
