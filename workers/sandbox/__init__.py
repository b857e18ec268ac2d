"""A process of its own for every job, with as little of the machine as the kernel lets it be given."""
