"""What a run would be worth."""
