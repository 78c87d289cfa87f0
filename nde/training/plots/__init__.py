"""Pictures of a run, a subject each: plain numbers in, the bytes of a PNG out."""
