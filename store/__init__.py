"""What is kept: rows in a database, files by content, logs that only grow. See each module for its part."""
