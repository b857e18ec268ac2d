"""What came of jobs: reports, variants and the files of both."""
