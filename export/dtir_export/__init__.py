"""From a trained checkpoint to a bundle: graphs, parity gate, and what each party may hold."""
