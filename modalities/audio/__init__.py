"""Audio: recordings, transcripts, and Whisper, which makes the one of the other."""
