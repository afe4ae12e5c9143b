"""What a search found and what it paid: numbers, tables and pictures."""
