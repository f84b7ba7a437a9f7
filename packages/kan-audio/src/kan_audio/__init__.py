"""Kolmogorov-Arnold Networks for audio: speech deepfake detection and spoken language understanding."""
