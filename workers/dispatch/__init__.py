"""How a worker hears of jobs: in the same process, or by ids over Celery and Redis. The store alone is the truth."""
