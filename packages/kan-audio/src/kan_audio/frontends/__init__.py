"""From waveforms to features: sinc filters, log-mel spectrograms, self-supervised encoders."""
