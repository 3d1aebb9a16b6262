"""The reliability battery: what is done to kdrun, and what must hold; one module per kind of fault."""
