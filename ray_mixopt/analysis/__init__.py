"""What a history says about the target."""
