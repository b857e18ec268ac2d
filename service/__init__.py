"""The REST door: FastAPI endpoints over the job store, free of torch."""
