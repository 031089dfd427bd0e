"""What peers say to each other, and when: state machines without I/O. Knows sizes, never tensors."""
