"""Images: reading, checking, towers that stages are cut from, features, metrics."""
