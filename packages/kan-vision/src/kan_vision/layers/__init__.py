"""Layers that only vision needs: KA-convolutions with their norms, attention of other forms, focal modulation."""
