"""Evidence: graphs beside PyTorch's modules, pictures beside PyTorch's, and both measured again."""
