"""What commands do on a server: send, wait, fetch, and turn its problems into the exit codes of local runs."""
