"""Commands to running workers: what they are, what they mean for a task, and how long they hold."""
