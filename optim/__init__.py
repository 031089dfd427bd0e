"""The mathematics of low-communication training: tensors in, tensors out."""
