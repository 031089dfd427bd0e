import torch

torch.set_num_threads(1)  # threads only slow tensors of this size down
