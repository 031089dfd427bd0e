import torch
from hypothesis import settings

# A deadline measures the machine's other work, and threads only slow tensors of this size down.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")
torch.set_num_threads(1)
