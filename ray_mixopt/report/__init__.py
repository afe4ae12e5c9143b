"""What a search found and what it paid, as pages, tables and pictures: nothing is computed here."""
