"""Numbers on tensors: pure functions, one per quantity, that also run under `torch.vmap`."""
