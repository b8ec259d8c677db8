"""How a GAN is trained: one step, one loop, one sampler for every model, so that a difference is the model's."""
