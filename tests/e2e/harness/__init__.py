"""Real processes, real folders, real sockets: what the tests of whole paths stand on."""
