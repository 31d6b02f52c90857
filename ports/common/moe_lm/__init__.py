"""Language models whose every layer is a mixture of experts, with routing as an input: what their ports share."""
