"""Sound: backbones that pool a waveform, and waveforms as tokens."""
