"""Speed, memory and quality, measured on real data; each module prints a table and ends with one JSON line."""
