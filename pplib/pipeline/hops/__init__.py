"""How a tensor gets from stage to stage: the contract, and one file per backend."""
