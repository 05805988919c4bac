"""The page that the api serves at `/`."""
