"""What several ports share: layers, and the way from PyTorch checkpoints to model directories."""
