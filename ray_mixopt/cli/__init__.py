"""The command ``ray-mixopt``: one module a command."""
