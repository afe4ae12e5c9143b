"""Any command as the trainer: what it is told, what it reports, and that nothing of it outlives its trial."""
