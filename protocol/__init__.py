"""What peers say to each other, and when: state machines without I/O, that never see a tensor."""
