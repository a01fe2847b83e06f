"""What a reader sees: figures, tables and the HTML page of a run. Nothing here is imported before it is needed."""
