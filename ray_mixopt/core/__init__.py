"""Pure data that everything stands on: spaces, mixtures, histories, objectives, settings and answers."""
