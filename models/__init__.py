"""The zoo: one model is one file of plain PyTorch that ends with `SPEC`. Nothing here imports `bench`."""
