"""Networks built from public packages with random weights, each checked without the code that is checked."""
