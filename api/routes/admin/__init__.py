"""Our own resources: tasks and adapters."""
