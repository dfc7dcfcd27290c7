"""What `loadtest/peers.py` is made of."""
