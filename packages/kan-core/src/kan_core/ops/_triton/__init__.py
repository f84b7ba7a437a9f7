"""One Triton skeleton for every op that is `planes of a basis @ coefficients`: kernels, tile sizes, registration."""
