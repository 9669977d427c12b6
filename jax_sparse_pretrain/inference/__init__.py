"""Using a trained model: its files, and decoding from them."""
