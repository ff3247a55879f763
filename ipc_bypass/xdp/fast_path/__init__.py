"""The container fast path: frames of enrolled flows go from container to container at once."""
