"""Code that several ports share: layers, and the conversion of PyTorch checkpoints to model directories."""
