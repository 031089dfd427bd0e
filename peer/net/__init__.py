"""The wire and the directory: the only room that opens sockets to other peers."""
