"""Files of others in, files for others out."""
