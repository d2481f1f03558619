"""LampQ Studio's engine: mixed-precision quantization of Vision Transformers, with or without the dashboard."""
